"""A saga that begins anew: the same saga, with other arguments and an empty journal."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, Shop, Told, another, effect, opened, release, reserve, saga_of
from txpatterns.errors import SagaDefinitionError, SagaFailed
from txpatterns.sagas import SagaContext, SagaSettings, StepTransaction
from txpatterns.sagas.facts import Had, Restarted
from txpatterns.sagas.schema import saga_journal_table, saga_signal_table, saga_wait_table
from txpatterns.sagas.store import Write
from txpatterns.sagas.writer import Ahead, SagaWriter
from txpatterns.testing.clock import ManualClock


async def count(shop: Shop, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return int(await shop.app.database.read(lambda connection: connection.execute(query).scalar_one()))


async def test_a_saga_begins_anew_as_the_same_saga(shop: Shop) -> None:
    """P4, H337: each run has its journal, keys and messages; the id is the saga's, as are its first arguments."""
    keys: list[str] = []

    async def bill(tx: StepTransaction, month: int) -> int:
        keys.append(tx.key)
        await tx.session.execute(sa.insert(effect).values(what=f"bill {month}"))
        tx.emit(Told(what=f"step {month}"))
        return month + 1

    async def order(saga: SagaContext, month: int, total: int) -> int:
        following = await saga.step(bill, month)
        saga.emit(Told(what=f"code {month}"))
        if following < 4:
            saga.restart(following, total + month)
        return total + month

    saga_of(shop, order)
    assert await shop.run(order, 1, 0) == 6
    assert await shop.effects() == ["bill 1", "bill 2", "bill 3"]
    assert keys == [f"shop.order/order-1/{run}/1" for run in (1, 2, 3)]
    row = await shop.row()
    assert (row["run"], row["args"], row["status"]) == (3, "[3,3]", "completed")
    journal = saga_journal_table.c
    query = sa.select(journal.run, journal.n).order_by(journal.run, journal.n)
    rows = await shop.app.database.read(lambda connection: [tuple(row) for row in connection.execute(query)])
    assert rows == [(1, 1), (2, 1), (3, 1)]
    assert [fact.args for fact in await shop.facts() if isinstance(fact, Restarted)] == ["[2,1]", "[3,3]"]
    handle = await shop.start(order, 1, 0)
    assert await handle.result(timeout=PATIENCE) == 6


async def test_what_is_to_be_undone_is_not_forgotten(sqlite_shop: Shop) -> None:
    """P4, H337: neither where the code asks, nor where that became so while it waited for its other branches."""

    async def order(saga: SagaContext, times: int) -> str:
        await saga.step(reserve, "A1", compensate=release)
        with pytest.raises(SagaDefinitionError, match="behind its pivot, or where nothing is to be undone"):
            saga.restart(times + 1)
        if times == 1:
            saga.pivot()
            saga.restart(times + 1)
        return "refused"

    async def at_once(saga: SagaContext, times: int) -> None:
        async def again() -> None:
            saga.restart(times + 1)

        await saga.gather(saga.step(reserve, "A1", compensate=release), again())

    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order, 0) == "refused"
    assert await sqlite_shop.run(order, 1, id="order-2") == "refused"
    assert (await sqlite_shop.row("order-2"))["run"] == 2
    other = another(sqlite_shop)
    other.app.saga("at once")(at_once)
    await other.start(at_once, 0, id="order-3")
    await other.rest()
    row = await sqlite_shop.row("order-3")
    assert (row["run"], row["status"]) == (1, "running")
    assert "its compensations would be forgotten" in row["attention"]


async def test_arguments_that_do_not_fit_begin_nothing(sqlite_shop: Shop) -> None:
    """P4: a person is told, and mended code goes on from there."""

    async def order(saga: SagaContext, times: int) -> None:
        saga.restart("many", times)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order, 1)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert (row["run"], row["args"]) == (1, "[1]")
    assert "The list of arguments of order" in row["attention"]


async def test_what_was_had_is_not_had_again(shop: Shop) -> None:
    """P4, H337: events go on where they were, nothing is waited for any more, and what is gone is not remembered."""

    async def order(saga: SagaContext, had: list[str]) -> list[str]:
        other = saga.wait_for(Told, key="never", timeout=None)
        told = await saga.first(saga.wait_for(Told, key=saga.id, timeout=None), other)
        had = [*had, f"{saga.run}"]
        if len(had) < 3:
            saga.restart(had)
        return [*had, told.what]

    saga_of(shop, order, signals=[Told])
    handle = await shop.start(order, [])
    for run in (1, 2, 3):
        await shop.rest()
        row = await shop.row()
        assert (row["status"], row["run"]) == ("waiting", run)
        assert await count(shop, saga_wait_table) == 2
        async with shop.app.transaction() as session:
            shop.app.sagas.signal(session, Told(what="order-1"))
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == ["1", "2", "3", "order-1"]
    assert await count(shop, saga_wait_table) == 0
    assert [fact.signal for fact in await shop.facts() if isinstance(fact, Had)] == [1, 2]


async def test_events_that_are_gone_are_not_remembered(sqlite_shop: Shop) -> None:
    """P4, H337: what a saga knows of the runs before does not grow with them."""

    async def order(saga: SagaContext, number: int) -> int:
        await saga.wait_for(Told, key=f"{saga.id} {number}", timeout=None)
        if number < 3:
            saga.restart(number + 1)
        return number

    saga_of(sqlite_shop, order, signals=[Told])
    handle = await sqlite_shop.start(order, 1)
    for number in (1, 2, 3):
        await sqlite_shop.rest()
        await sqlite_shop.app.database.execute(sa.delete(saga_signal_table))
        async with sqlite_shop.app.transaction() as session:
            sqlite_shop.app.sagas.signal(session, Told(what=f"order-1 {number}"))
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=PATIENCE) == 3
    assert [fact.key for fact in await sqlite_shop.facts() if isinstance(fact, Had)] == ["order-1 1", "order-1 2"]


async def test_a_deadline_is_counted_anew(tmp_path: Path) -> None:
    """P4, H336: from when the run begins, by the database's clock."""
    clock = ManualClock()

    async def order(saga: SagaContext, times: int) -> int:
        await saga.sleep(timedelta(minutes=50))
        if times < 3:
            saga.restart(times + 1)
        return times

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order, deadline=timedelta(hours=1))
        handle = await shop.start(order, 1)
        for _ in range(3):
            await shop.rest()
            clock.advance(timedelta(minutes=55))
        await shop.rest()
        assert await handle.result(timeout=PATIENCE) == 3


async def test_a_long_journal_is_told_and_ends(sqlite_shop: Shop) -> None:
    """P4, H337: a person is told at one length, and asked at another; what is undone is undone all the same."""
    shop = Shop(sqlite_shop.app.database, SagaSettings(long_journal=5, longest_journal=8))

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        for _ in range(20):
            await saga.step(reserve, "B2", compensate=release)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    assert await shop.effects() == ["reserve A1", *["reserve B2"] * 7]
    row = await shop.row()
    assert (row["status"], row["due_at"]) == ("running", None)
    assert row["attention"] == "its journal has 8 rows, and does not become longer: see saga.restart()"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_long_journal_is_told_while_the_saga_goes_on(sqlite_shop: Shop, waits: bool) -> None:
    """P4, H337: as long as it is one; a run that begins anew has none."""
    shop = Shop(sqlite_shop.app.database, SagaSettings(long_journal=3, longest_journal=100))

    async def order(saga: SagaContext, again: bool) -> None:
        for _ in range(3):
            await saga.step(reserve, "A1")
        if again:
            saga.restart(False)
        if waits:
            await saga.sleep(timedelta(hours=1))
        else:
            await saga.step(reserve, "B2")

    saga_of(shop, order)
    await shop.start(order, True)
    await shop.rest()
    assert shop.watch.flagged.is_set()
    row = await shop.row()
    assert row["run"] == 2
    long = "its journal has 3 rows, and each replay takes longer: see saga.restart()"
    assert (row["status"], row["attention"]) == (("waiting", long) if waits else ("completed", None))


async def test_a_restart_of_which_nobody_knows_whether_it_is_committed_is_made_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, H337: it was, and the answer was lost; the old run's journal says so."""
    real, lost = SagaWriter.took, []

    def loses_the_answer(self: SagaWriter, write: Write) -> None:
        if write.standing is not None and write.standing.restart is not None and not lost:
            lost.append(write)
            raise Ahead
        real(self, write)

    async def order(saga: SagaContext, left: int) -> int:
        if saga.run == 1:
            await saga.step(reserve, "A1")
        if left:
            saga.restart(left - 1)
        return saga.run

    monkeypatch.setattr(SagaWriter, "took", loses_the_answer)
    saga_of(shop, order)
    assert await shop.run(order, 2) == 3
    assert lost
    assert await shop.effects() == ["reserve A1"]
    assert [fact.args for fact in await shop.facts() if isinstance(fact, Restarted)] == ["[1]", "[0]"]


async def test_a_child_belongs_to_one_run(sqlite_shop: Shop) -> None:
    """P4, H372: another run is not given what the child of one before has done, as if it had been done again."""

    async def bill(saga: SagaContext, customer: str) -> str:
        return await saga.step(reserve, customer)

    async def subscription(saga: SagaContext, month: int) -> int:
        of_run = f"-{saga.run}" if month < 3 else ""
        await saga.child(bill, "ann", id=f"{saga.id}-bill{of_run}")
        await saga.child(bill, "ann", id=f"{saga.id}-bill{of_run}")  # in one run it is the same child
        if month < 4:
            saga.restart(month + 1)
        return month

    sqlite_shop.app.saga()(bill)
    saga_of(sqlite_shop, subscription)
    with pytest.raises(SagaFailed, match="with other arguments, or of another parent or run"):
        await sqlite_shop.run(subscription, 1)
    assert await sqlite_shop.effects() == ["reserve ann"] * 3
