"""What operators do to sagas: each deed is one transaction, is written down, and lets nobody who ran the saga go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from sagas.support import (
    PATIENCE,
    QUICK,
    Shop,
    Told,
    another,
    effect,
    opened,
    pack,
    refuse,
    release,
    reserve,
    saga_of,
    unpack,
)
from txpatterns import Event, Reject, RetryLadder
from txpatterns.admin import saga_check
from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_check import check_sagas
from txpatterns.admin.saga_code import SagaCode
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.admin.sagas import find_saga, list_sagas
from txpatterns.errors import ConfigurationError, LeaseLost, SagaFailed, SagaKept, SchemaError, StepFailed, WaitTimedOut
from txpatterns.sagas import Call, Doubt, SagaContext, StepTransaction, Undo
from txpatterns.sagas.facts import Ended, Undone
from txpatterns.sagas.looking import SagaLooks
from txpatterns.sagas.schema import saga_journal_table, saga_table, saga_wait_table
from txpatterns.sagas.store import SagaStore, Write
from txpatterns.testing.clock import ManualClock

HOURS = RetryLadder((timedelta(hours=5),), jitter=0)


def hand(shop: Shop, id: str = "order-1", type: str | None = None) -> SagaInHand:
    return SagaInHand(shop.app.database, id, type, Deed("ann@desk", "the bank said so"))


def code(shop: Shop) -> SagaCode:
    return SagaCode(shop.app.sagas.definitions, shop.app.outbox)


async def deeds(shop: Shop, id: str = "order-1") -> list[tuple[Any, ...]]:
    found = await shop.app.database.read(lambda connection: find_saga(connection, shop.app.database, id))
    assert found is not None
    return [(deed.action, deed.path, deed.status) for deed in found.deeds]


async def undone(shop: Shop) -> list[str]:
    return [fact.mark.path for fact in await shop.facts() if isinstance(fact, Undone)]


class Flaky:
    """A step that fails until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False

    async def __call__(self, tx: StepTransaction) -> str:
        if not self.is_mended:
            raise ConnectionError("no route")
        return await reserve(tx, "flaky")


class Bank:
    """Somebody else's service, which loses its answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.undone: list[str | None] = []

    async def charge(self, call: Call, amount: int) -> str:
        self.calls += 1
        raise ConnectionError("lost")

    async def refund(self, undo: Undo[str], amount: int) -> None:
        self.undone.append(undo.result)


async def test_a_retry_does_not_wait_for_the_next_attempt(shop: Shop) -> None:
    """P4, H321: what waits for hours is done at once, and its attempts count on."""
    flaky = Flaky()

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1")
        return await saga.step(flaky, retry=HOURS)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    flaky.is_mended = True
    await shop.rest()
    assert (await shop.row())["status"] == "waiting"
    await hand(shop).retry()
    await shop.rest()
    assert (await shop.row())["status"] == "completed"
    assert await shop.effects() == ["reserve A1", "reserve flaky"]
    assert await deeds(shop) == [("retry", None, "waiting")]


async def test_a_saga_that_was_left_to_a_person_goes_on_with_the_same_code(shop: Shop) -> None:
    """P4, H321: a retry takes the flag, the crashes and the fingerprint away; and the undoing, too, is retried."""
    is_mended = False

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1")
        if not is_mended:
            raise TypeError("something global is missing")
        return hold

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    assert (await shop.row())["diverged"] is not None
    is_mended = True
    await shop.rest()
    assert (await shop.row())["status"] == "running"
    await hand(shop).retry()
    row = await shop.row()
    assert (row["attention"], row["diverged"], row["crashes"], row["owner"]) == (None, None, 0, None)
    await shop.rest()
    assert (await shop.row())["status"] == "completed"


async def test_an_undoing_is_retried_at_once(shop: Shop) -> None:
    """P4, H321: a saga that is undone stays one, and does not wait for its next attempt either."""
    fails = True

    async def give_back(tx: StepTransaction, sku: str) -> None:
        if fails:
            raise ConnectionError("no route")
        await release(tx, sku)

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=give_back, retry=HOURS)
        await saga.step(refuse, 7)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    fails = False
    await hand(shop).retry()
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await shop.effects() == ["reserve A1", "release A1"]


@asynccontextmanager
async def running(shop: Shop) -> AsyncIterator[None]:
    """An order of which a step runs until the end of the block, in a process that lives."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: StepTransaction) -> str:
        begun.set()
        await go_on.wait()
        return await reserve(tx, "slow")

    async def order(saga: SagaContext) -> str:
        return await saga.step(slow)

    saga_of(shop, order)
    handle = await shop.start(order)
    async with shop.app.running():
        await begun.wait()
        try:
            yield
        finally:
            go_on.set()
        assert await handle.result(timeout=PATIENCE) == "hold slow"


@pytest.mark.parametrize("action", ["retry", "cancel", "compensate", "resolve", "skip"])
async def test_what_a_living_process_runs_is_left_to_it(postgres_shop: Shop, action: str) -> None:
    """P4, H321: nothing is changed, and the operator is told which process it is."""
    act: dict[str, Callable[[SagaInHand], Awaitable[None]]] = {
        "retry": SagaInHand.retry,
        "cancel": SagaInHand.cancel,
        "compensate": SagaInHand.compensate,
        "resolve": lambda saga: saga.resolve(code(postgres_shop), "1", '"hold"'),
        "skip": lambda saga: saga.skip(code(postgres_shop), "1"),
    }
    async with running(postgres_shop):
        with pytest.raises(SagaKept, match=r"is run at this moment, by the process \S+:\d+"):
            await act[action](hand(postgres_shop))
        assert await deeds(postgres_shop) == []


@pytest.fixture
async def postgres_shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


async def test_whoever_ran_a_saga_before_an_operator_writes_nothing_any_more(shop: Shop) -> None:
    """P4, H321: a process that was stopped, and taken for dead, wakes up behind the deed."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)

    saga_of(shop, order)
    await shop.start(order)
    database, known = shop.app.database, shop.app.sagas.definitions.known()
    store, itself = SagaStore(database), sa.select(sa.literal("zombie"))
    for act in (SagaInHand.retry, SagaInHand.cancel):
        (zombie,) = await database.transact(lambda connection: store.claim(connection, "zombie", itself, known, 1))
        await act(hand(shop))
        with pytest.raises(LeaseLost):
            await database.transact(lambda connection, zombie=zombie: store.write(connection, zombie, 1, Write()))
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await shop.effects() == []


async def sleeps(saga: SagaContext) -> None:
    await saga.sleep(timedelta(days=1))


async def stops(saga: SagaContext) -> None:
    raise TypeError("wrong")


async def waits_for_an_attempt(saga: SagaContext) -> None:
    await saga.step(Flaky(), retry=HOURS)


@pytest.mark.parametrize("then", [sleeps, stops, waits_for_an_attempt])
async def test_a_saga_is_cancelled_wherever_it_is(shop: Shop, then: Callable[[SagaContext], Awaitable[None]]) -> None:
    """P4, H322: asleep, stopped by its code or failing: what it has done is undone in reverse."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.gather(saga.step(pack, "A1", compensate=unpack), saga.step(reserve, "gift"))
        await then(saga)

    saga_of(shop, order)
    handle = await shop.start(order)
    await shop.rest()
    await hand(shop).cancel()
    assert (await shop.row())["status"] == "compensating"
    with pytest.raises(SagaKept, match="is being undone already"):
        await hand(shop).cancel()
    async with shop.app.running():
        with pytest.raises(SagaFailed, match="compensated: Aborted: cancelled by an operator: the bank said so"):
            await handle.result(timeout=PATIENCE)
    assert (await shop.effects())[3:] == ["unpack A1", "release A1"]
    assert (await shop.row())["due_at"] is None
    with pytest.raises(SagaKept, match="has ended: it is compensated"):
        await hand(shop).retry()
    assert [action for action, *_ in await deeds(shop)] == ["cancel"]


async def test_a_saga_that_has_done_nothing_is_cancelled(shop: Shop) -> None:
    """P4, H322: before its first step, too: there is nothing to be undone, and it has ended."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)

    saga_of(shop, order)
    await shop.start(order)
    await hand(shop).cancel()
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await shop.effects() == []


async def test_what_may_be_under_way_at_the_cancelling_is_undone_when_it_has_settled(tmp_path) -> None:
    """P4, H175, H322: its last attempt may have begun at any time until then."""
    clock, bank = ManualClock(), Bank()

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.call(bank.charge, 7, compensate=bank.refund, doubt=Doubt.ASK, timeout=timedelta(seconds=40))

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order)
        await shop.start(order)
        for _ in range(4):
            await shop.rest()
            clock.advance(timedelta(minutes=20))
        assert (await shop.row())["attention"] is not None
        await hand(shop).cancel()
        await shop.rest()
        clock.advance(timedelta(seconds=79))
        await shop.rest()
        assert bank.undone == []
        assert (await shop.row())["status"] == "compensating"
        clock.advance(timedelta(seconds=2))
        await shop.rest()
        assert bank.undone == [None]
        assert await undone(shop) == ["2", "1"]
        assert (await shop.row())["status"] == "compensated"


async def test_behind_the_pivot_nothing_is_cancelled(sqlite_shop: Shop) -> None:
    """P4, H322: the operator is told what goes instead."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        await saga.sleep(timedelta(days=1))

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    with pytest.raises(SagaKept, match="behind its pivot"):
        await hand(sqlite_shop).cancel()
    assert (await sqlite_shop.row())["status"] == "waiting"


async def test_what_has_completed_is_undone_on_purpose(shop: Shop) -> None:
    """P4, H375: in reverse and once, and whoever asks for its result then is told."""

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1", compensate=release)
        await saga.step(pack, "A1", compensate=unpack)
        await saga.step(reserve, "gift")
        return hold

    saga_of(shop, order)
    handle = await shop.start(order)
    await shop.rest()
    assert (await shop.row())["status"] == "completed"
    with pytest.raises(SagaKept, match="completed") as refused:
        await hand(shop).cancel()
    assert "txp saga compensate" in str(refused.value.remedy)
    await hand(shop).compensate()
    row = await shop.row()
    assert (row["status"], row["ended_at"], row["result"]) == ("compensating", None, None)
    with pytest.raises(SagaKept, match="is being undone already"):
        await hand(shop).compensate()
    await shop.rest()
    for asked in (handle, shop.app.sagas.handle(order, "order-1")):
        with pytest.raises(SagaFailed, match="compensated: Aborted: undone by an operator: the bank said so"):
            await asked.result(timeout=PATIENCE)
    assert (await shop.effects())[3:] == ["unpack A1", "release A1"]
    with pytest.raises(SagaKept, match="has ended: it is compensated") as refused:
        await hand(shop).compensate()
    assert "Nothing of it is left" in str(refused.value.remedy)
    assert await deeds(shop) == [("compensate", None, "completed")]


@pytest.mark.parametrize("then", [sleeps, stops, waits_for_an_attempt])
async def test_what_has_not_ended_is_compensated_as_it_is_cancelled(
    shop: Shop, then: Callable[[SagaContext], Awaitable[None]]
) -> None:
    """P4, H322, H375: asleep, stopped by its code or failing."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await then(saga)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    await hand(shop).compensate()
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await shop.effects() == ["reserve A1", "release A1"]


async def test_what_was_final_is_not_undone_behind_its_end(shop: Shop) -> None:
    """P4, H375: what has passed its pivot, and what has completed for another saga, is left as it is."""

    async def part(saga: SagaContext) -> str:
        return await saga.step(reserve, "part", compensate=release)

    async def order(saga: SagaContext) -> None:
        await saga.child(part, id="part-1")
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        await saga.step(reserve, "B2")

    shop.app.saga("part")(part)
    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    with pytest.raises(SagaKept, match="behind its pivot") as refused:
        await hand(shop).compensate()
    assert "start a saga" in str(refused.value.remedy)
    with pytest.raises(SagaKept, match="has completed for the saga that started it"):
        await hand(shop, "part-1").compensate()
    with pytest.raises(SagaKept, match="no saga none"):
        await hand(shop, "none").compensate()
    await shop.rest()
    assert await shop.effects() == ["reserve part", "reserve A1", "reserve B2"]
    assert (await shop.row())["status"] == "completed"
    assert await deeds(shop) == []


async def test_a_completed_child_is_undone_with_its_parent(shop: Shop) -> None:
    """P4, H375: by what the parent gave for it, once; what cannot be undone yet is tried on, by whoever takes over."""
    fails = True

    async def give_back(tx: StepTransaction, *args: object) -> None:
        if fails:
            raise ConnectionError("no route")
        await release(tx, "part")

    async def part(saga: SagaContext) -> str:
        return await saga.step(reserve, "part", compensate=release)

    async def order(saga: SagaContext) -> None:
        await saga.child(part, id="part-1", compensate=give_back)
        await saga.step(reserve, "A1", compensate=release)

    shop.app.saga("part")(part)
    saga_of(shop, order, retry=HOURS)
    await shop.start(order)
    await shop.rest()
    assert (await shop.row())["status"] == "completed"
    await hand(shop).compensate()
    await shop.rest()
    assert (await shop.row())["status"] == "compensating"
    fails = False
    await hand(shop).retry()
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert (await shop.effects())[2:] == ["release A1", "release part"]


async def test_what_is_being_undone_is_not_forgotten_with_the_ended_ones(shop: Shop) -> None:
    """P4, H375: however long ago it had ended, it has its journal until it has ended again."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    await hand(shop).compensate()
    looking = SagaLooks(shop.app.database)
    assert await shop.app.database.transact(lambda connection: looking.clean(connection, timedelta(0))) == 0
    await shop.rest()
    assert await shop.effects() == ["reserve A1", "release A1"]


async def test_a_person_tells_what_has_become_of_a_call(shop: Shop) -> None:
    """P4, H323: the code goes on with that value; what is none of its type is refused, and changes nothing."""
    bank = Bank()

    async def order(saga: SagaContext) -> list[str]:
        return [await saga.call(bank.charge, 7, doubt=Doubt.ASK, retry=QUICK), await saga.step(reserve, "A1")]

    saga_of(shop, order)
    handle = await shop.start(order)
    async with shop.app.running():
        await shop.watch.flagged.wait()
    assert bank.calls == 1
    for value in ("7", "no json", "null"):
        with pytest.raises(SagaKept, match="That is no value of call charge"):
            await hand(shop).resolve(code(shop), "1", value)
    with pytest.raises(SagaKept, match="waits for nothing at 2; it waits for call charge at 1"):
        await hand(shop).resolve(code(shop), "2", '"P-11"')
    await hand(shop).resolve(code(shop), "1", '"P-11"')
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == ["P-11", "hold A1"]
    assert bank.calls == 1
    assert await deeds(shop) == [("resolve", "1", "running")]


async def test_what_the_code_was_told_before_is_written_with_the_deed(shop: Shop) -> None:
    """P4, H323: a time that is in no journal yet is among the arguments, and what was sent goes out once."""

    async def book(tx: StepTransaction, at: datetime) -> str:
        raise AssertionError("it is done by hand")

    async def order(saga: SagaContext) -> str:
        saga.emit(Told(what="begun"))
        return await saga.step(book, saga.now())

    saga_of(shop, order)
    handle = await shop.start(order)
    await hand(shop).resolve(code(shop), "3", '"by hand"')
    sent = "SELECT count(*) FROM txp_outbox"
    assert await shop.app.database.read(lambda connection: connection.execute(sa.text(sent)).scalar_one()) == 1
    async with shop.app.running(relay=False):
        assert await handle.result(timeout=PATIENCE) == "by hand"
    assert await shop.app.database.read(lambda connection: connection.execute(sa.text(sent)).scalar_one()) == 1


async def test_a_wait_is_ended_by_a_person(sqlite_shop: Shop) -> None:
    """P4, H323: a sleep has no value, and does not fail."""

    async def order(saga: SagaContext) -> str:
        await saga.sleep(timedelta(days=1))
        return "awake"

    saga_of(sqlite_shop, order)
    handle = await sqlite_shop.start(order)
    await sqlite_shop.rest()
    with pytest.raises(SagaKept, match="has no value"):
        await hand(sqlite_shop).resolve(code(sqlite_shop), "1", "1")
    with pytest.raises(SagaKept, match="does not fail"):
        await hand(sqlite_shop).skip(code(sqlite_shop), "1")
    await hand(sqlite_shop).resolve(code(sqlite_shop), "1", "null")
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "awake"


async def test_the_code_is_told_that_an_operation_was_skipped(shop: Shop) -> None:
    """P4, H323: as a failure without an effect, so that it goes another way and nothing of it is undone."""
    bank = Bank()

    async def order(saga: SagaContext) -> str:
        try:
            await saga.call(bank.charge, 7, compensate=bank.refund, doubt=Doubt.ASK, retry=QUICK)
        except StepFailed as error:
            await saga.step(reserve, "instead", compensate=release)
            raise Reject(f"{error.text}, {error.unknown}") from error
        return "charged"

    saga_of(shop, order)
    handle = await shop.start(order)
    async with shop.app.running():
        await shop.watch.flagged.wait()
    await hand(shop).skip(code(shop), "1")
    async with shop.app.running():
        with pytest.raises(SagaFailed, match="skipped by an operator: the bank said so, False"):
            await handle.result(timeout=PATIENCE)
    assert bank.undone == []
    assert await shop.effects() == ["reserve instead", "release instead"]


async def test_an_undoing_that_cannot_succeed_is_passed_over(shop: Shop) -> None:
    """P4, H323: what is undone next, and nothing else; the others are undone as always, and it may be the last."""

    async def never(tx: StepTransaction, sku: str) -> None:
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=never, retry=HOURS)
        await saga.step(reserve, "B2", compensate=release)
        await saga.step(reserve, "C3", compensate=never, retry=HOURS)
        await saga.step(refuse, 7)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    with pytest.raises(SagaKept, match="next is step reserve at 3"):
        await hand(shop).skip(code(shop), "2")
    with pytest.raises(SagaKept, match="is being undone"):
        await hand(shop).resolve(code(shop), "3", '"hold"')
    for path in ("3", "1"):
        await hand(shop).skip(code(shop), path)
        await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await undone(shop) == ["3", "2", "1"]
    assert (await shop.effects())[3:] == ["release B2"]


class Paid(Event, topic="paid", type="paid", key="order"):
    order: str
    cents: int


async def rows_of_waits(shop: Shop) -> list[str]:
    query = sa.select(saga_wait_table.c.path).order_by(saga_wait_table.c.path)
    return list(await shop.app.database.read(lambda connection: connection.execute(query).scalars().all()))


async def waits_for_two(saga: SagaContext) -> str:
    try:
        paid = await saga.first(
            saga.wait_for(Paid, key="A1", timeout=None), saga.wait_for(Paid, key="B2", timeout=None)
        )
        said = f"{paid.order} {paid.cents}"
    except WaitTimedOut as error:
        said = error.message
    await saga.sleep(timedelta(days=1))
    return said


async def test_a_person_tells_what_has_come(shop: Shop) -> None:
    """P4, H323: an event, by its own fields; the others that are dropped for it do not wake the saga any more."""
    saga_of(shop, waits_for_two, signals=[Paid])
    handle = await shop.start(waits_for_two)
    await shop.rest()
    assert await rows_of_waits(shop) == ["1", "2"]
    with pytest.raises(SagaKept, match="That is no value of wait"):
        await hand(shop).resolve(code(shop), "1", '{"order": "A1"}')
    await hand(shop).resolve(code(shop), "1", '{"order": "A1", "cents": 7}')
    assert await rows_of_waits(shop) == []
    await shop.rest()
    stood = await shop.app.database.read(lambda connection: find_saga(connection, shop.app.database, "order-1"))
    assert stood is not None
    given = (stood.stood.saga, stood.stood.entries, stood.stood.now, shop.app.database.clock)
    assert await code(shop).waits_for(*given) == {"4": "sleep"}
    await hand(shop).resolve(code(shop), "4", "null")
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "A1 7"


async def test_a_wait_for_an_event_is_skipped_as_if_it_were_too_late(sqlite_shop: Shop) -> None:
    """P4, H323: the code is told what it is told when nothing comes."""
    saga_of(sqlite_shop, waits_for_two, signals=[Paid])
    handle = await sqlite_shop.start(waits_for_two)
    await sqlite_shop.rest()
    await hand(sqlite_shop).skip(code(sqlite_shop), "2")
    await sqlite_shop.rest()
    await hand(sqlite_shop).resolve(code(sqlite_shop), "4", "null")
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "skipped by an operator: the bank said so"


async def test_a_saga_that_is_cancelled_waits_for_nothing_any_more(shop: Shop) -> None:
    """P4, H322: what it waited for comes later, and changes nothing."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await waits_for_two(saga)

    saga_of(shop, order, signals=[Paid])
    await shop.start(order)
    await shop.rest()
    await hand(shop).cancel()
    assert await rows_of_waits(shop) == []
    async with shop.app.transaction() as session:
        shop.app.outbox.add(session, Paid(order="A1", cents=1))
    await shop.rest()
    assert (await shop.row())["status"] == "compensated"
    assert await shop.effects() == ["reserve A1", "release A1"]


async def test_a_saga_that_goes_on_while_its_code_is_looked_at_is_looked_at_again(sqlite_shop: Shop) -> None:
    """P4, H323: the deed is about what the code waits for when it is written, not when somebody looked."""
    flaky = Flaky()

    class GoesOn(SagaCode):
        @asynccontextmanager
        async def rebuilt(self, *given: Any) -> AsyncIterator[Any]:
            async with super().rebuilt(*given) as rebuilt:
                if not flaky.is_mended:
                    flaky.is_mended = True
                    await hand(sqlite_shop).retry()
                    await sqlite_shop.rest()
                yield rebuilt

    async def order(saga: SagaContext) -> None:
        await saga.step(flaky, retry=HOURS)
        await saga.sleep(timedelta(days=1))

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    goes_on = GoesOn(sqlite_shop.app.sagas.definitions, sqlite_shop.app.outbox)
    with pytest.raises(SagaKept, match="waits for nothing at 1; it waits for sleep at 2"):
        await hand(sqlite_shop).resolve(goes_on, "1", '"hold"')
    assert [fact.mark.path for fact in await sqlite_shop.facts() if isinstance(fact, Ended)] == ["1"]


async def test_who_is_meant_must_be_clear(sqlite_shop: Shop) -> None:
    """P4, H323: one id may be of two types; and where there is none, that is said."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1")

    async def other(saga: SagaContext) -> None:
        await saga.step(reserve, "B2")

    saga_of(sqlite_shop, order)
    sqlite_shop.app.saga("other")(other)
    for saga in (order, other):
        await sqlite_shop.start(saga)
    with pytest.raises(ConfigurationError, match=r"shop\.order, shop\.other.*--type shop\.order"):
        await hand(sqlite_shop).cancel()
    with pytest.raises(SagaKept, match=r"no saga order-1 of shop\.none"):
        await hand(sqlite_shop, type="shop.none").cancel()
    with pytest.raises(SagaKept, match=r"has no code for shop\.order"):
        await hand(sqlite_shop, type="shop.order").skip(code(another(sqlite_shop)), "1")
    await hand(sqlite_shop, type="shop.other").cancel()
    await sqlite_shop.rest()
    assert await sqlite_shop.effects() == ["reserve A1"]


async def test_those_that_need_a_person_are_listed_first(shop: Shop) -> None:
    """P4, P7: whatever has not ended, and what has where that is asked for."""

    async def order(saga: SagaContext, what: str) -> None:
        match what:
            case "sleeps":
                await saga.sleep(timedelta(days=1))
            case "stops":
                raise TypeError("wrong")

    saga_of(shop, order)
    for what in ("ends", "sleeps", "stops"):
        await shop.start(order, what, id=what)
    await shop.rest()

    async def listed(**wanted: Any) -> list[str]:
        found = await shop.app.database.read(
            lambda connection: list_sagas(connection, shop.app.database, **wanted),
        )
        return [entry.id for entry in found]

    assert await listed() == ["stops", "sleeps"]
    assert await listed(limit=1) == ["stops"]
    assert await listed(flagged=True) == ["stops"]
    assert await listed(status="completed") == ["ends"]
    assert await listed(type="shop.other") == []


async def test_code_is_checked_against_the_journals_before_it_is_deployed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, H171: page by page; each that would diverge, stop or be served by nobody is told; and nothing is written."""
    monkeypatch.setattr(saga_check, "PAGE", 2)

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku)
        await saga.sleep(timedelta(days=1))

    async def gone(saga: SagaContext) -> None:
        await saga.sleep(timedelta(days=1))

    saga_of(shop, order)
    shop.app.saga("gone")(gone)
    for sku in ("same", "other", "wrong", "third", "ended"):
        await shop.start(order, sku, id=sku)
    await shop.start(gone, id="gone")
    await shop.rest()
    await hand(shop, "ended").cancel()
    await shop.rest()

    async def changed(saga: SagaContext, sku: str) -> None:
        await saga.step(pack if sku == "other" else reserve, sku)
        if sku == "wrong":
            raise TypeError("wrong")
        await saga.sleep(timedelta(days=1))

    async def new(saga: SagaContext, sku: int) -> None: ...

    before = await _all_rows(shop)
    assert (await check_sagas(shop.app.database, "shop", shop.app.sagas.definitions)).misfits == []
    later, renamed = another(shop), another(shop)
    saga_of(later, changed)
    saga_of(renamed, new)
    checked = await check_sagas(later.app.database, "shop", later.app.sagas.definitions)
    found = {misfit.id: misfit.why for misfit in checked.misfits}
    assert checked.replayed == 4
    assert found.keys() == {"other", "wrong", "gone"}
    assert found["other"] == "At 1 the journal has step reserve; the code asks for step pack at 1."
    assert found["gone"] == "Nobody here serves it."
    checked = await check_sagas(renamed.app.database, "shop", renamed.app.sagas.definitions)
    assert {misfit.why for misfit in checked.misfits if misfit.is_served} == {
        "It was started with other arguments than its code takes now."
    }
    assert await _all_rows(shop) == before
    others = sa.update(saga_table).where(saga_table.c.id == "gone").values(type="shop.eu.gone")
    await shop.app.database.execute(others)
    checked = await check_sagas(later.app.database, "shop", later.app.sagas.definitions)
    assert {misfit.id for misfit in checked.misfits} == {"other", "wrong"}


async def _all_rows(shop: Shop) -> list[Any]:
    tables = (saga_table, saga_journal_table, effect)
    queries = [sa.select(table).order_by(*table.primary_key) for table in tables]
    return await shop.app.database.read(
        lambda connection: [tuple(row) for query in queries for row in connection.execute(query)]
    )


async def test_operators_need_the_tables_of_sagas(sqlite_shop: Shop) -> None:
    """P7, H100: nothing is done that could not be written down."""

    async def order(saga: SagaContext) -> None:
        await saga.sleep(timedelta(days=1))

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.app.database.execute(sa.text("DROP TABLE txp_saga_audit"))
    with pytest.raises(SchemaError, match="txp_saga_audit is missing"):
        await hand(sqlite_shop).retry()
