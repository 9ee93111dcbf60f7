"""A saga that has not come to its pivot by its deadline is undone, wherever its code is; behind it a person is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, QUICK, Declined, Shop, Told, another, opened, release, reserve, saga_of
from txpatterns import RetryLadder
from txpatterns.errors import SagaDefinitionError, SagaFailed
from txpatterns.hooks import HookList
from txpatterns.sagas import Call, Doubt, SagaContext, StepTransaction, Undo
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.facts import Finished, Overdue
from txpatterns.sagas.schema import saga_journal_table, saga_table, saga_wait_table
from txpatterns.testing.clock import ManualClock

HOUR = timedelta(hours=1)
SOON, BEHIND = timedelta(seconds=5), timedelta(seconds=6)
"""Less than leases last: whose process runs on at the deadline goes on with its sagas."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def shop(any_database: str, clock: ManualClock) -> AsyncIterator[Shop]:
    async with opened(any_database, clock=clock) as shop:
        yield shop


@pytest.fixture
async def sqlite_shop(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Shop]:
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        yield shop


async def is_undone(shop: Shop, id: str = "order-1") -> None:
    row = await shop.row(id)
    assert row["status"] == "compensated", row
    assert row["error"].startswith("Aborted: its deadline has passed: 2"), row


async def test_a_saga_that_waits_without_an_end_is_undone_at_its_deadline(shop: Shop, clock: ManualClock) -> None:
    """P4, H336: its row is due then, whatever it waits for; until then nobody asks for it."""
    ran: list[str] = []

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku, compensate=release)
        await saga.wait_for(Told, key=saga.id, timeout=None)
        ran.append("on")

    saga_of(shop, order, deadline=HOUR, signals=[Told])
    handle = await shop.start(order, "A1")
    await shop.rest()
    row = await shop.row()
    assert (row["status"], row["due_at"] - row["started_at"]) == ("waiting", HOUR)
    assert row["deadline_at"] == row["due_at"]
    clock.advance(timedelta(minutes=59))
    await shop.rest()
    assert (await shop.row())["epoch"] == row["epoch"]
    clock.advance(timedelta(minutes=2))
    async with shop.app.running():
        with pytest.raises(SagaFailed, match="its deadline has passed"):
            await handle.result(timeout=PATIENCE)
    await is_undone(shop)
    assert ran == []
    assert await shop.effects() == ["reserve A1", "release A1"]
    assert (await shop.row())["epoch"] == row["epoch"] + 1
    count = sa.select(sa.func.count()).select_from(saga_wait_table)
    assert await shop.app.database.read(lambda connection: connection.execute(count).scalar_one()) == 0


async def test_a_saga_that_runs_stops_at_its_next_write(shop: Shop, clock: ManualClock) -> None:
    """P4, H336: what has begun comes to its end, and is undone with what it gave; the code is not told."""

    async def late(tx: StepTransaction, sku: str) -> str:
        clock.advance(BEHIND)
        return await reserve(tx, sku)

    async def order(saga: SagaContext, sku: str) -> str:
        await saga.step(reserve, sku, compensate=release)
        await saga.step(late, f"{sku}+", compensate=release)
        saga.pivot()
        return await saga.step(reserve, "never")

    saga_of(shop, order, deadline=SOON)
    with pytest.raises(SagaFailed, match="its deadline has passed"):
        await shop.run(order, "A1")
    await is_undone(shop)
    assert await shop.effects() == ["reserve A1", "reserve A1+", "release A1+", "release A1"]


@pytest.mark.parametrize("ends", ["well", "in doubt", "never", "asks"])
async def test_a_call_is_undone_that_was_under_way_at_the_deadline(
    sqlite_shop: Shop, clock: ManualClock, ends: str
) -> None:
    """P4, H336, H175: with what it gave, if it came to its end; what is in doubt when its request has settled."""
    undone: list[str | None] = []

    async def charge(call: Call, amount: int) -> str:
        if ends != "never":
            clock.advance(BEHIND)
        if ends == "well":
            return "P-11"
        raise ConnectionError("no route")

    async def refund(undo: Undo[str], amount: int) -> None:
        undone.append(undo.result)

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        doubt, ladder = Doubt.ASK if ends == "asks" else Doubt.AGAIN, RetryLadder((timedelta(days=1),))
        await saga.call(charge, 7, compensate=refund, timeout=timedelta(minutes=5), doubt=doubt, retry=ladder)

    saga_of(sqlite_shop, order, deadline=SOON)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    if ends == "never":
        assert (await sqlite_shop.row())["status"] == "waiting"
        clock.advance(BEHIND)
        await sqlite_shop.rest()
    if ends != "well":
        assert undone == []
        assert (await sqlite_shop.row())["status"] == "compensating"
        clock.advance(timedelta(minutes=11))
        await sqlite_shop.rest()
    assert undone == ["P-11" if ends == "well" else None]
    assert await sqlite_shop.effects() == ["reserve A1", "release A1"]
    await is_undone(sqlite_shop)


async def test_who_was_asked_has_time_until_the_deadline(sqlite_shop: Shop, clock: ManualClock) -> None:
    """P4, H336: then the saga is undone, as it would be without the question."""
    undone: list[str | None] = []

    async def charge(call: Call) -> str:
        raise ConnectionError("no route")

    async def refund(undo: Undo[str]) -> None:
        undone.append(undo.result)

    async def order(saga: SagaContext) -> None:
        await saga.call(charge, compensate=refund, doubt=Doubt.ASK)

    saga_of(sqlite_shop, order, deadline=HOUR)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    clock.advance(timedelta(minutes=1))
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert row["attention"] == "nobody knows whether charge has had its effect"
    assert row["due_at"] == row["deadline_at"]
    for _ in range(2):
        clock.advance(HOUR)
        await sqlite_shop.rest()
    assert undone == [None]
    await is_undone(sqlite_shop)


async def test_behind_the_pivot_it_goes_on_and_a_person_is_told_once(shop: Shop, clock: ManualClock) -> None:
    """P4, H336: nothing is undone there."""

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        first = await saga.wait_for(Told, key="first", timeout=None)
        await saga.sleep(3 * HOUR)
        return first.what

    saga_of(shop, order, deadline=HOUR, signals=[Told])
    handle = await shop.start(order)
    await shop.rest()
    clock.advance(2 * HOUR)
    await shop.rest()
    row = await shop.row()
    assert row["attention"] == "its deadline has passed behind its pivot; it goes on"
    assert (row["status"], row["due_at"]) == ("waiting", None)
    shop.watch.flagged.clear()
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="first"))
    await shop.rest()
    clock.advance(4 * HOUR)
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "first"
    assert not shop.watch.flagged.is_set()
    assert len([fact for fact in await shop.facts() if isinstance(fact, Overdue)]) == 1
    assert await shop.effects() == ["reserve A1"]


async def test_a_saga_that_sleeps_behind_its_pivot_is_told_of_once(sqlite_shop: Shop, clock: ManualClock) -> None:
    """P4, H336: and sleeps on; it is not claimed again and again."""

    async def order(saga: SagaContext) -> None:
        saga.pivot()
        await saga.sleep(24 * HOUR)

    saga_of(sqlite_shop, order, deadline=HOUR)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    clock.advance(2 * HOUR)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert row["attention"] == "its deadline has passed behind its pivot; it goes on"
    assert (row["status"], row["epoch"]) == ("waiting", 2)
    assert row["due_at"] - row["started_at"] > 23 * HOUR


@pytest.mark.parametrize("comes", [True, False])
async def test_after_a_downtime_the_events_are_read_before_a_deadline_counts(
    sqlite_shop: Shop, clock: ManualClock, comes: bool
) -> None:
    """P4, H336, H170: the payment lies at the broker, and the deadline has passed in the table."""

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        told = await saga.wait_for(Told, key=saga.id, timeout=None)
        saga.pivot()
        await saga.step(reserve, "B2")
        return told.what

    saga_of(sqlite_shop, order, deadline=HOUR, signals=[Told])
    handle = await sqlite_shop.start(order)
    await sqlite_shop.rest()
    clock.advance(2 * HOUR)
    app = sqlite_shop.app
    engine = SagaEngine(app.database, app.sagas.definitions, app.outbox, hooks=HookList(), hears_late=True)
    running = asyncio.create_task(engine.run())
    await engine.caught_up(await app.database.moment())
    row = await sqlite_shop.row()
    assert row["status"] == "waiting"
    assert timedelta(seconds=29) < row["due_at"] - clock.now() < timedelta(seconds=31)
    if comes:
        async with app.transaction() as session:
            app.sagas.signal(session, Told(what="order-1"))
    else:
        clock.advance(timedelta(seconds=31))
    while not (await sqlite_shop.row())["ended_at"]:
        engine.wake()
        await engine.caught_up(await app.database.moment())
    engine.stop()
    await running
    assert await handle.status() == ("completed" if comes else "compensated")


async def test_the_step_that_follows_the_pivot_counts_as_behind_it(sqlite_shop: Shop, clock: ManualClock) -> None:
    """P4, H336: it has begun, and what the code said before is kept with it."""

    async def late(tx: StepTransaction, sku: str) -> str:
        clock.advance(BEHIND)
        return await reserve(tx, sku)

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        await saga.step(late, "B2")
        return await saga.step(reserve, "C3")

    saga_of(sqlite_shop, order, deadline=SOON)
    assert await sqlite_shop.run(order) == "hold C3"
    assert await sqlite_shop.effects() == ["reserve A1", "reserve B2", "reserve C3"]


async def died(shop: Shop, crashes: int = 2) -> None:
    """Let the process that runs the saga be dead, as so many before it."""
    await shop.app.database.execute(sa.update(saga_table).values(owner="somebody", crashes=crashes))


async def test_a_saga_that_processes_have_died_of_is_undone_at_its_deadline(shop: Shop, clock: ManualClock) -> None:
    """P4, H336, H173: until then nobody runs it, and a person is told once; then nothing of it goes on."""
    ran: list[str] = []

    async def deadly(tx: StepTransaction) -> str:
        ran.append("again")
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(deadly, compensate=nothing, retry=RetryLadder((timedelta(minutes=1),), jitter=0))

    async def nothing(tx: StepTransaction) -> None:
        raise AssertionError("it was never done")

    saga_of(shop, order, deadline=HOUR)
    await shop.start(order)
    await shop.rest()
    await died(shop)
    clock.advance(timedelta(minutes=2))
    await shop.rest()
    row = await shop.row()
    assert (row["attention"], row["owner"]) == ("3 processes have died while they ran it, without any progress", None)
    assert row["due_at"] == row["deadline_at"]
    shop.watch.flagged.clear()
    clock.advance(timedelta(minutes=30))
    await shop.rest()
    assert (await shop.row())["epoch"] == row["epoch"]
    clock.advance(HOUR)
    await shop.rest()
    await is_undone(shop)
    assert (ran, shop.watch.flagged.is_set()) == (["again"], False)
    assert await shop.effects() == ["reserve A1", "release A1"]


@pytest.mark.parametrize("where", ["behind the pivot", "undone", "without a deadline", "of another release"])
async def test_what_processes_have_died_of_and_no_deadline_ends_is_left_alone(
    sqlite_shop: Shop, clock: ManualClock, where: str
) -> None:
    """P4, H336, H173: for good: nobody takes it again until a person says so."""
    hours = RetryLadder((24 * HOUR,), jitter=0)

    async def fails(tx: StepTransaction, *_: object) -> None:
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=fails, retry=hours)
        if where == "behind the pivot":
            saga.pivot()
        if where == "undone":
            saga.abort("no")
        await saga.step(fails, retry=hours)

    saga_of(sqlite_shop, order, deadline=None if where == "without a deadline" else HOUR)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    await died(sqlite_shop)
    if where == "of another release":
        await sqlite_shop.app.database.execute(sa.update(saga_journal_table).values(facts='[{"fact": "unheard"}]'))
    clock.advance(30 * HOUR)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert "3 processes have died" in row["attention"]
    assert (row["due_at"], row["owner"], row["ended_at"]) == (None, None, None)


async def test_what_processes_have_died_of_does_not_run_on_while_events_are_read(
    sqlite_shop: Shop, clock: ManualClock
) -> None:
    """P4, H336, H173, H170: an engine that has just begun holds deadlines back, and lets nothing run that is deadly."""
    ran: list[str] = []

    async def deadly(tx: StepTransaction) -> None:
        ran.append("again")
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(deadly, retry=RetryLadder((timedelta(minutes=1),), jitter=0))

    saga_of(sqlite_shop, order, deadline=HOUR, signals=[Told])
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    await died(sqlite_shop)
    clock.advance(timedelta(minutes=2))
    await sqlite_shop.rest()
    clock.advance(2 * HOUR)
    app = sqlite_shop.app
    engine = SagaEngine(app.database, app.sagas.definitions, app.outbox, hooks=HookList(), hears_late=True)
    running = asyncio.create_task(engine.run())
    await engine.caught_up(await app.database.moment())
    engine.stop()
    await running
    assert ran == ["again"]
    await sqlite_shop.rest()
    await is_undone(sqlite_shop)
    assert ran == ["again"]


async def test_an_undoing_that_processes_die_of_is_left_alone_again(sqlite_shop: Shop, clock: ManualClock) -> None:
    """P4, H336, H173: a deadline costs no process after the other, for ever."""

    async def fails(tx: StepTransaction, *_: object) -> None:
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=fails, retry=RetryLadder((HOUR,), jitter=0))
        await saga.sleep(2 * HOUR)

    saga_of(sqlite_shop, order, deadline=HOUR)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    await died(sqlite_shop)
    for _ in range(2):
        clock.advance(2 * HOUR)
        await sqlite_shop.rest()
    assert (await sqlite_shop.row())["status"] == "compensating"
    await died(sqlite_shop)
    clock.advance(2 * HOUR)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert (row["status"], row["due_at"], row["owner"]) == ("compensating", None, None)
    assert "3 processes have died" in row["attention"]


async def test_a_saga_that_stands_still_is_undone_when_its_code_is_mended(
    sqlite_shop: Shop, clock: ManualClock
) -> None:
    """P4, H336, H171: the undoing needs the code; until then it stays with the person who was told."""

    async def order(saga: SagaContext) -> None:
        hold = await saga.step(reserve, "A1", compensate=release)
        hold.nonsense  # type: ignore[attr-defined]  # noqa: B018

    async def mended(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(reserve, "never")

    saga_of(sqlite_shop, order, deadline=HOUR)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    clock.advance(2 * HOUR)
    await sqlite_shop.rest()
    assert (await sqlite_shop.row())["status"] == "running"
    other = another(sqlite_shop)
    saga_of(other, mended, deadline=HOUR)
    await other.rest()
    assert await sqlite_shop.effects() == ["reserve A1", "release A1"]
    await is_undone(sqlite_shop)


async def test_what_is_being_undone_has_no_deadline(sqlite_shop: Shop, clock: ManualClock) -> None:
    """P4, H336: it has one reason, and its undoing takes as long as it takes."""
    hard: list[int] = []

    async def undo(tx: StepTransaction, sku: str) -> None:
        hard.append(tx.attempt)
        if len(hard) < 3:
            raise Declined(7)

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=undo)
        saga.abort("no")

    saga_of(sqlite_shop, order, deadline=HOUR)
    await sqlite_shop.start(order)
    for _ in range(3):
        await sqlite_shop.rest()
        clock.advance(2 * HOUR)
    row = await sqlite_shop.row()
    assert (row["status"], row["error"], hard) == ("compensated", "Aborted: no", [1, 2, 3])
    assert len([fact for fact in await sqlite_shop.facts() if isinstance(fact, Finished)]) == 1


@pytest.mark.parametrize("deadline", [timedelta(0), -HOUR, timedelta(days=40_000)])
async def test_a_deadline_is_some_time(sqlite_shop: Shop, deadline: timedelta) -> None:
    """P4, H336: more than none, and no more than can be kept."""
    with pytest.raises(SagaDefinitionError, match="deadline"):
        sqlite_shop.app.saga("order", deadline=deadline, retry=QUICK)
