"""Sending a command and waiting for its answer: in one commit, once."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, Shop, another, opened, release, reserve, saga_of
from txpatterns import Event
from txpatterns.errors import SagaDefinitionError, WaitTimedOut
from txpatterns.outbox.schema import outbox_table
from txpatterns.sagas import SagaContext
from txpatterns.sagas.facts import Waiting
from txpatterns.sagas.schema import saga_wait_table
from txpatterns.testing.clock import ManualClock


class Charge(Event, topic="charges", type="charge", key="order"):
    order: str


class Charged(Event, topic="payments", type="charged", key="order"):
    order: str
    cents: int


HOUR = timedelta(hours=1)


async def charged(saga: SagaContext, order: str) -> int:
    await saga.step(reserve, order, compensate=release)
    answer = await saga.command(Charge(order=order), reply=Charged, key=order, timeout=HOUR)
    return answer.cents


async def count(shop: Shop, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return await shop.app.database.read(lambda connection: connection.execute(query).scalar_one())


async def test_a_command_is_sent_and_its_answer_given(shop: Shop) -> None:
    """P4, P1, H330: somebody hears it once, however often the code is run again; the code has the answer."""
    heard = []
    saga_of(shop, charged, signals=[Charged])

    @shop.app.on(Charge)
    async def charge(event: Charge, tx) -> None:  # type: ignore[no-untyped-def]
        heard.append(tx.message.headers["correlation-id"])

    handle = await shop.start(charged, "A1")
    await shop.rest()
    assert [fact.mark.name for fact in await shop.facts() if isinstance(fact, Waiting)] == ["charge for charged:"]
    assert await count(shop, saga_wait_table) == 1
    await shop.rest()
    async with shop.app.transaction() as session:
        shop.app.outbox.add(session, Charged(order="A1", cents=7))
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == 7
    assert heard == ["order-1"]
    assert await count(shop, saga_wait_table) == 0


async def test_another_process_waits_on_and_sends_nothing_again(sqlite_shop: Shop) -> None:
    """P4, H330: the command is where the waiting is, and a replay knows it by that."""
    saga_of(sqlite_shop, charged, signals=[Charged])
    handle = await sqlite_shop.start(charged, "A1")
    async with sqlite_shop.app.running(relay=False):
        await sqlite_shop.app.drained()
    sent = await count(sqlite_shop, outbox_table)
    other = another(sqlite_shop)
    saga_of(other, charged, signals=[Charged])
    async with other.app.transaction() as session:
        other.app.sagas.signal(session, Charged(order="A1", cents=7))
    async with other.app.running(relay=False):
        await other.app.drained()
    assert (sent, await count(sqlite_shop, outbox_table)) == (1, 1)
    assert await handle.result() == 7


async def test_commands_at_once_and_whichever_is_answered_first(shop: Shop) -> None:
    """P4, H330: each has its answer by its key; what is dropped waits for nothing any more."""

    async def order(saga: SagaContext) -> list[int]:
        def ask(key: str):  # type: ignore[no-untyped-def]
            return saga.command(Charge(order=key), reply=Charged, key=key, timeout=None)

        both = await saga.gather(ask("a"), ask("b"))
        either = await saga.first(ask("c"), ask("d"), saga.sleep(HOUR))
        assert either is not None
        return [*(each.cents for each in both), either.cents]

    saga_of(shop, order, signals=[Charged])

    @shop.app.on(Charge)
    async def charge(event: Charge, tx) -> None:  # type: ignore[no-untyped-def]
        if event.order != "c":
            tx.emit(Charged(order=event.order, cents=ord(event.order)))

    assert await shop.run(order) == [97, 98, 100]
    assert await count(shop, saga_wait_table) == 0


async def test_an_answer_that_does_not_come_is_told(tmp_path) -> None:
    """P4, H330: when its time is over; the next command is another one."""
    clock = ManualClock()

    async def order(saga: SagaContext) -> int:
        try:
            await saga.command(Charge(order="1"), reply=Charged, key="1", timeout=HOUR)
        except WaitTimedOut:
            return (await saga.command(Charge(order="2"), reply=Charged, key="2", timeout=HOUR)).cents
        return 0

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order, signals=[Charged])
        heard = []

        @shop.app.on(Charge)
        async def charge(event: Charge, tx) -> None:  # type: ignore[no-untyped-def]
            heard.append(event.order)
            if event.order == "2":
                tx.emit(Charged(order="2", cents=7))

        handle = await shop.start(order)
        await shop.rest()
        clock.advance(2 * HOUR)
        await shop.rest()
        assert await handle.result() == 7
        assert heard == ["1", "2"]


async def test_what_something_else_was_faster_than_is_not_sent(sqlite_shop: Shop) -> None:
    """P4, H330: the command would begin to wait at the moment in which it is dropped."""

    async def order(saga: SagaContext) -> str:
        ask = saga.command(Charge(order="1"), reply=Charged, key="1", timeout=HOUR)
        await saga.first(saga.sleep(timedelta(0)), ask)
        return await saga.step(reserve, "A1")

    saga_of(sqlite_shop, order, signals=[Charged])
    handle = await sqlite_shop.start(order)
    async with sqlite_shop.app.running(relay=False):
        assert await handle.result(timeout=PATIENCE) == "hold A1"
    assert await count(sqlite_shop, outbox_table) == 0
    assert "command" not in [fact.mark.kind for fact in await sqlite_shop.facts() if isinstance(fact, Waiting)]


async def test_an_answer_that_is_not_declared_cannot_be_waited_for(sqlite_shop: Shop) -> None:
    """P4, H330: nobody would hear it, so nothing is sent."""

    async def order(saga: SagaContext) -> None:
        await saga.command(Charge(order="1"), reply=Charged, key="1", timeout=HOUR)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    assert "does not declare Charged" in (await sqlite_shop.row())["attention"]
    assert await count(sqlite_shop, outbox_table) == 0
    with pytest.raises(SagaDefinitionError):
        saga_of(sqlite_shop, charged, signals=[Charge, Charge])
