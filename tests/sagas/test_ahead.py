"""A step whose commit fails when the saga's code has been told of its end, and another part that is about to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from sagas.support import Declined, Shop, Told, effect, release, reserve, saga_of
from txpatterns.errors import SagaFailed
from txpatterns.sagas import Call, SagaContext, StepTransaction
from txpatterns.sagas.attempt import Attempt
from txpatterns.sagas.driver import Driver
from txpatterns.sagas.events import Events
from txpatterns.sagas.facts import Attempted, Ended, Finished
from txpatterns.sagas.opened import Open
from txpatterns.sagas.store import Write
from txpatterns.sagas.writer import SagaWriter


async def late(tx: StepTransaction) -> str:
    """Do what does not become true at the first time."""
    await tx.session.execute(sa.insert(effect).values(what="late"))
    return "done"


async def charge(call: Call) -> str:
    return "charged"


async def part(saga: SagaContext) -> str:
    return "part"


BESIDE: dict[str, Callable[[SagaContext], Awaitable[object]]] = {
    "a wait": lambda saga: saga.wait_for(Told, key=saga.id, timeout=timedelta(hours=1)),
    "a sleep": lambda saga: saga.sleep(timedelta(milliseconds=1)),
    "a call": lambda saga: saga.call(charge),
    "a call that fails": lambda saga: saga.call(decline),
    "a lock": lambda saga: saga.lock("till", timeout=timedelta(hours=1)),
    "a child": lambda saga: saga.child(part, id=f"{saga.id}-part"),
    "a step": lambda saga: saga.step(reserve, "A1", compensate=release),
    "a step that fails": lambda saga: saga.step(give_up),
}
FAILS = ("a call that fails", "a step that fails")


async def decline(call: Call) -> None:
    raise Declined(1)


async def give_up(tx: StepTransaction) -> None:
    raise Declined(1)


class Meeting:
    """The other part goes on when the late step's end is told, and the late step's commit fails then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told, self.other_is_there, self.failed = asyncio.Event(), asyncio.Event(), 0
        put, alone, take_lock = SagaWriter.put, SagaWriter.alone, Attempt._take_lock
        meeting = self

        def put_and_fail(writer: SagaWriter, connection: Connection, rows: int, write: Write) -> None:
            put(writer, connection, rows, write)
            if not meeting.failed and is_late(write.facts):
                meeting.failed += 1
                meeting.told.set()
                await_only(meeting.other_is_there.wait())
                raise ConnectionError("nothing of this is committed")

        @asynccontextmanager
        async def alone_and_after(writer: SagaWriter) -> AsyncIterator[None]:
            await meeting.comes()
            async with alone(writer):
                yield

        async def take_lock_after(attempt: Attempt) -> None:
            if attempt.mark.name != "late":
                await meeting.comes()
            await take_lock(attempt)

        monkeypatch.setattr(SagaWriter, "put", put_and_fail)
        monkeypatch.setattr(SagaWriter, "alone", alone_and_after)
        monkeypatch.setattr(Attempt, "_take_lock", take_lock_after)

    async def comes(self) -> None:
        await self.told.wait()
        self.other_is_there.set()


def is_late(facts: Sequence[Any]) -> bool:
    return any(isinstance(fact, Ended) and fact.mark.name == "late" for fact in facts)


@pytest.mark.parametrize("beside", BESIDE)
async def test_nothing_follows_from_an_end_that_is_not_committed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """P4, H451: the saga would end without what the step was to do; so it is begun anew from its journal."""
    meeting = Meeting(monkeypatch)
    if "step" in beside and shop.app.database.is_sqlite:  # there steps run one after the other
        meeting.other_is_there.set()

    async def order(saga: SagaContext) -> str:
        done, _ = await saga.gather(saga.step(late), BESIDE[beside](saga))
        return done

    shop.app.saga()(part)
    saga_of(shop, order, signals=[Told])
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="order-1"))
    if beside in FAILS:
        with pytest.raises(SagaFailed):
            await shop.run(order)
    else:
        assert await shop.run(order) == "done"
    assert meeting.failed == 1
    assert "late" in await shop.effects()
    facts = await shop.facts()
    ends = [fact.mark.name for fact in facts if isinstance(fact, Ended)]
    assert ends.count("late") == 1
    assert [fact.mark.name for fact in facts if isinstance(fact, Attempted) and fact.mark.name == "late"] == ["late"]
    assert isinstance(facts[-1], Finished) or beside in FAILS


async def test_an_event_comes_while_an_end_is_told_that_is_not_committed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, H451: the saga is told of it by what drives it, which nobody cancels."""
    waits, other_is_there, drivers, failed = asyncio.Event(), asyncio.Event(), list[Driver](), list[Write]()
    put, alone, find, go_on = SagaWriter.put, SagaWriter.alone, Events.find, Driver._go_on

    def put_and_fail(writer: SagaWriter, connection: Connection, rows: int, write: Write) -> None:
        put(writer, connection, rows, write)
        if not failed and is_late(write.facts):
            failed.append(write)
            drivers[0].nudge()
            await_only(other_is_there.wait())
            raise ConnectionError("nothing of this is committed")

    @asynccontextmanager
    async def alone_and_noted(writer: SagaWriter) -> AsyncIterator[None]:
        if failed:
            other_is_there.set()
        async with alone(writer):
            yield
        waits.set()

    async def go_on_and_noted(driver: Driver) -> None:
        drivers.append(driver)
        await go_on(driver)

    def find_then(events: Events, connection: Connection, opened: Open) -> Any:
        return find(events, connection, opened) if failed else None

    async def late_when_it_waits(tx: StepTransaction) -> str:
        await waits.wait()
        return await late(tx)

    async def order(saga: SagaContext) -> str:
        _, done = await saga.gather(BESIDE["a wait"](saga), saga.step(late_when_it_waits, name="late"))
        return done

    monkeypatch.setattr(SagaWriter, "put", put_and_fail)
    monkeypatch.setattr(SagaWriter, "alone", alone_and_noted)
    monkeypatch.setattr(Events, "find", find_then)
    monkeypatch.setattr(Driver, "_go_on", go_on_and_noted)
    saga_of(shop, order, signals=[Told])
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="order-1"))
    assert await shop.run(order) == "done"
    assert len(failed) == 1
    assert await shop.effects() == ["late"]
    ends = [fact.mark.name for fact in await shop.facts() if isinstance(fact, Ended)]
    assert sorted(ends) == ["late", "told:"]
