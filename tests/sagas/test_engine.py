"""Sagas run to their end: each step once, with the application's own rows, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import registry

from rig.planting import instead_of
from sagas.support import (
    PATIENCE,
    QUICK,
    Declined,
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
from txpatterns import Reject, RetryLadder
from txpatterns.coordination.schema import member_table
from txpatterns.errors import IdReused, SagaDefinitionError, SagaFailed, SagaValueRefused, SchemaError, StepFailed
from txpatterns.sagas import Call, SagaContext, SagaSettings, StepTransaction, SyncStepTransaction
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.facts import Attempted, Ended, Undone
from txpatterns.sagas.schema import SCOPE, saga_table
from txpatterns.testing.clock import ManualClock


async def test_a_saga_runs_to_its_end(shop: Shop) -> None:
    """P4: steps of both kinds, one after the other and at once, each with its effect; the result comes back."""

    async def order(saga: SagaContext, sku: str) -> tuple[str, str, str]:
        hold = await saga.step(reserve, sku)
        box, other = await saga.gather(saga.step(pack, sku), saga.step(reserve, f"{sku}+"))
        return hold, box, other

    saga_of(shop, order)
    assert await shop.run(order, "A1") == ("hold A1", "box A1", "hold A1+")
    effects = await shop.effects()
    assert effects[0] == "reserve A1"
    assert sorted(effects[1:]) == ["pack A1", "reserve A1+"]
    row = await shop.row()
    assert (row["status"], row["owner"], row["due_at"]) == ("completed", None, None)


async def test_what_fails_is_undone_in_reverse(shop: Shop) -> None:
    """P4: what was done is undone, the last first, each with the arguments that it was done with."""

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku, compensate=release)
        await saga.step(pack, sku, compensate=unpack)
        await saga.step(reserve, "gift")
        await saga.step(refuse, 7, compensate=release_amount)

    async def release_amount(tx: StepTransaction, amount: int) -> None:
        raise AssertionError("what failed has had no effect")

    saga_of(shop, order)
    with pytest.raises(SagaFailed, match=r"compensated: Declined: 7"):
        await shop.run(order, "A1")
    assert await shop.effects() == ["reserve A1", "pack A1", "reserve gift", "unpack A1", "release A1"]
    assert [fact.mark.path for fact in await shop.facts() if isinstance(fact, Undone)] == ["2", "1"]


async def test_the_code_is_told_why_a_step_failed(shop: Shop) -> None:
    """P4: an error that the saga names as itself, a Reject at once, others after the ladder; the saga may go on."""
    tries: list[int] = []

    async def breaks(tx: StepTransaction) -> None:
        tries.append(tx.attempt)
        await tx.session.execute(sa.insert(effect).values(what="broken"))
        raise ConnectionError("no route")

    async def rejects(tx: StepTransaction) -> None:
        raise Reject("never")

    async def order(saga: SagaContext) -> list[str]:
        told = []
        try:
            await saga.step(refuse, 7)
        except Declined as error:
            told.append(f"declined {error.amount}")
        for step in (breaks, rejects):
            try:
                await saga.step(step)
            except StepFailed as error:
                told.append(error.type)
        await saga.step(reserve, "B2")
        return told

    saga_of(shop, order)
    assert await shop.run(order) == ["declined 7", "builtins:ConnectionError", "txpatterns.errors:Reject"]
    assert tries == [1, 2, 3]
    assert await shop.effects() == ["reserve B2"]
    assert [fact.number for fact in await shop.facts() if isinstance(fact, Attempted)] == [1, 2]


async def test_a_mistake_undoes_nothing_and_goes_on_when_it_is_mended(shop: Shop) -> None:
    """P4, H171: a bad deploy must not refund every running order; the mended code goes on from where it stood."""

    async def order(saga: SagaContext, sku: str) -> str:
        hold = await saga.step(reserve, sku, compensate=release)
        return await saga.step(reserve, hold.nonsense)  # type: ignore[attr-defined]

    saga_of(shop, order)
    await shop.start(order, "A1")
    await shop.rest()
    row = await shop.row()
    assert row["status"] == "running"
    assert "no attribute 'nonsense'" in row["attention"]
    assert "test_engine.py" in row["attention"]
    assert await shop.effects() == ["reserve A1"]

    async def mended(saga: SagaContext, sku: str) -> str:
        hold = await saga.step(reserve, sku, compensate=release)
        return await saga.step(reserve, hold)

    other = another(shop)
    saga_of(other, mended)
    async with other.app.running():
        assert await other.app.sagas.handle(mended, "order-1").result(timeout=PATIENCE) == "hold hold A1"
    assert await shop.effects() == ["reserve A1", "reserve hold A1"]
    assert (await shop.row())["attention"] is None


async def test_a_mistake_in_a_step_is_flagged_and_tried_on(shop: Shop) -> None:
    """P4, H171: after the ladder a person is told, the code is not; it goes on by itself when the step succeeds."""
    mended = asyncio.Event()

    async def step(tx: StepTransaction) -> str:
        if not mended.is_set():
            raise TypeError("wrong")
        return "right"

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        return await saga.step(step)

    saga_of(shop, order)
    handle = await shop.start(order)
    async with shop.app.running():
        await shop.watch.flagged.wait()
        assert "step fails: TypeError: wrong" in (await shop.row())["attention"]
        mended.set()
        assert await handle.result(timeout=PATIENCE) == "right"
    assert (await shop.row())["attention"] is None
    assert await shop.effects() == ["reserve A1"]


async def test_code_that_awaits_something_else_needs_a_person(sqlite_shop: Shop) -> None:
    """P4, H164: the first time that it does, with the line; not months later, when it is replayed."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await asyncio.sleep(0.01)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    attention = (await sqlite_shop.row())["attention"]
    assert "awaited sleep at" in attention
    assert "test_engine.py" in attention
    assert await sqlite_shop.effects() == ["reserve A1"]


async def test_an_undoing_is_tried_until_it_succeeds(shop: Shop) -> None:
    """P4: on the ladder, then at its last wait for ever, and a person is told; the earlier ones wait for it."""
    tries: list[int] = []

    async def hard(tx: StepTransaction, sku: str) -> None:
        tries.append(tx.attempt)
        if len(tries) < 6:
            raise Declined(len(tries))
        await release(tx, sku)

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(reserve, "B2", compensate=hard)
        await saga.step(refuse, 7)

    saga_of(shop, order)
    with pytest.raises(SagaFailed):
        await shop.run(order)
    assert tries == [1, 2, 3, 4, 5, 6]
    assert await shop.effects() == ["reserve A1", "reserve B2", "release B2", "release A1"]
    assert (await shop.row())["attention"] is None


async def test_behind_the_pivot_there_is_only_forward(shop: Shop) -> None:
    """P4: a step is tried for ever, an error undoes nothing, and a compensation there is refused."""
    tries: list[int] = []

    async def hard(tx: StepTransaction) -> str:
        tries.append(tx.attempt)
        if len(tries) < 6:
            raise ConnectionError("not yet")
        return "done"

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        with pytest.raises(SagaDefinitionError, match="after the pivot"):
            saga.step(reserve, "B2", compensate=release)
        return await saga.step(hard)

    saga_of(shop, order)
    assert await shop.run(order) == "done"
    assert tries == [1, 2, 3, 4, 5, 6]
    assert await shop.effects() == ["reserve A1"]


async def test_an_error_behind_the_pivot_needs_a_person(sqlite_shop: Shop) -> None:
    """P4: what the code raises there cannot undo it any more."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        saga.pivot()
        await saga.step(refuse, 7)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert (row["status"], row["attention"]) == ("running", "7")
    assert await sqlite_shop.effects() == ["reserve A1"]


async def test_a_saga_starts_with_its_transaction_or_not_at_all(shop: Shop) -> None:
    """P4, P1: a rollback, and a rolled back savepoint, take the start along."""

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku)

    saga_of(shop, order)
    async with shop.app.session() as session:
        shop.app.sagas.start(session, order, "A1", id="order-1")
        await session.rollback()
    async with shop.app.transaction() as session:
        shop.app.sagas.start(session, order, "B2", id="order-2")
        savepoint = await session.begin_nested()
        shop.app.sagas.start(session, order, "C3", id="order-3")
        await savepoint.rollback()
    await shop.rest()
    assert await shop.effects() == ["reserve B2"]
    assert await shop.app.sagas.handle(order, "order-1").status() is None
    assert await shop.app.sagas.handle(order, "order-2").status() == "completed"


async def test_the_same_id_is_the_same_saga(shop: Shop) -> None:
    """P4, H180: with the same arguments; with others nothing of the transaction is committed."""

    async def order(saga: SagaContext, sku: str) -> str:
        return await saga.step(reserve, sku)

    saga_of(shop, order)
    await shop.start(order, "A1")
    handle = await shop.start(order, "A1")
    async with shop.app.session() as session:
        await session.execute(sa.insert(effect).values(what="with the start"))
        shop.app.sagas.start(session, order, "B2", id="order-1")
        with pytest.raises(IdReused, match="order-1"):
            await session.commit()
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "hold A1"
    await shop.start(order, "A1")
    await shop.rest()
    assert await shop.effects() == ["reserve A1"]


async def test_two_that_start_the_same_sagas_crosswise_do_not_block_each_other(shop: Shop) -> None:
    """P4, H180: the rows are written in one order, whatever order they were asked for in."""

    async def order(saga: SagaContext, sku: str) -> str:
        return await saga.step(reserve, sku)

    saga_of(shop, order)

    async def start(numbers: range) -> None:
        async with shop.app.transaction() as session:
            for number in numbers:
                shop.app.sagas.start(session, order, "A1", id=f"order-{number}")

    await asyncio.gather(*(start(numbers) for numbers in (range(20), range(19, -1, -1)) * 3))
    await shop.rest()
    assert len(await shop.effects()) == 20


async def test_what_cannot_be_a_saga_is_refused_where_it_is_written(sqlite_shop: Shop) -> None:
    """P4: with what is wrong, and what to write."""
    app = sqlite_shop.app

    def plain(saga: SagaContext) -> None: ...

    async def unsaid(saga: SagaContext, sku) -> None: ...  # type: ignore[no-untyped-def]

    async def order(saga: SagaContext, sku: str) -> str:
        return sku

    async def other(saga: SagaContext) -> None: ...

    with pytest.raises(SagaDefinitionError, match="no async def"):
        app.saga()(plain)  # type: ignore[type-var]
    with pytest.raises(SagaDefinitionError, match="sku of unsaid has no annotation"):
        app.saga()(unsaid)
    app.saga("order", version=2, since=1)(order)
    with pytest.raises(SagaDefinitionError, match="two functions for one version"):
        app.saga("order", version=2, since=2)(other)
    with pytest.raises(SagaDefinitionError, match="other is no saga"):
        app.sagas.handle(other, "1")
    async with app.transaction() as session:
        with pytest.raises(SagaDefinitionError, match="no id for a saga"):
            app.sagas.start(session, order, "A1", id="mit Leerzeichen")
        with pytest.raises(SagaValueRefused):
            app.sagas.start(session, order, 7, id="order-1")  # type: ignore[arg-type]
    with pytest.raises(SagaDefinitionError):
        app.saga(version=1, since=2)
    with pytest.raises(SagaDefinitionError):
        app.saga(errors=["ValueError"])  # type: ignore[list-item]


async def test_a_method_may_be_a_saga(sqlite_shop: Shop) -> None:
    """P4: it is the same one each time that it is asked for."""

    class Warehouse:
        async def order(self, saga: SagaContext, sku: str) -> str:
            return await saga.step(reserve, sku)

    warehouse = Warehouse()
    saga_of(sqlite_shop, warehouse.order)
    assert await sqlite_shop.run(warehouse.order, "A1") == "hold A1"


async def test_each_of_several_versions_is_run_by_its_own_function(sqlite_shop: Shop) -> None:
    """P4, H172: a saga keeps the version that it was started with; what serves none is left to others."""

    async def old(saga: SagaContext) -> str:
        return await saga.step(reserve, f"old {saga.version}")

    async def new(saga: SagaContext) -> str:
        return await saga.step(reserve, f"new {saga.version}")

    before = another(sqlite_shop)
    saga_of(before, old)
    first = await before.start(old, id="1")
    saga_of(sqlite_shop, new, since=2, version=3)
    second = await sqlite_shop.start(new, id="2")
    await sqlite_shop.rest()
    assert (await first.status(), await second.status()) == ("running", "completed")
    saga_of(sqlite_shop, old)
    await sqlite_shop.rest()
    assert await sqlite_shop.effects() == ["reserve new 3", "reserve old 1"]


async def test_code_that_has_changed_under_a_running_saga_is_found_out(shop: Shop) -> None:
    """P4, H171: nothing more runs, with the first difference in words; the text of before goes on."""
    asked: list[str] = []

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1", compensate=release)
        await saga.sleep(timedelta(seconds=1))
        asked.append(hold)
        return await saga.step(reserve, "B2")

    async def changed(saga: SagaContext) -> str:
        await saga.step(pack, "A1")
        return await saga.step(reserve, hold_of(saga))

    def hold_of(saga: SagaContext) -> str:
        return saga.id

    saga_of(shop, order)
    other = another(shop)
    saga_of(other, changed)
    await shop.start(order)
    async with shop.app.running():
        await shop.watch.done.wait()
    async with other.app.running():
        await other.watch.flagged.wait()
    assert "At 1 the journal has step reserve; the code asks for step pack at 1" in (await shop.row())["attention"]
    await other.rest()
    assert await shop.effects() == ["reserve A1"]
    async with shop.app.running():
        assert await shop.app.sagas.handle(order, "order-1").result(timeout=PATIENCE) == "hold B2"
    assert asked == ["hold A1"]


async def test_a_saga_whose_arguments_are_not_taken_any_more_needs_a_person(sqlite_shop: Shop) -> None:
    """P4, H171: it is flagged, and not begun anew for ever."""

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku)

    async def changed(saga: SagaContext, amount: int) -> None: ...

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order, "A1")
    other = another(sqlite_shop)
    saga_of(other, changed)
    async with other.app.running():
        await other.watch.flagged.wait()
    assert "other arguments than its code takes now" in (await sqlite_shop.row())["attention"]


async def test_what_was_claimed_although_the_answer_was_lost_is_claimed_again(shop: Shop, monkeypatch) -> None:
    """P4, P7: at once, and not at the next comparison."""
    lost, transact = [], shop.app.database.transact

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1")

    async def and_lose_the_answer(work: Callable[[sa.Connection], Any], **options: Any) -> Any:
        result = await transact(work, **options)
        if isinstance(work, partial) and work.func.__name__ == "claim" and result and not lost:
            lost.append(result)
            raise sa.exc.OperationalError("UPDATE", None, OSError("the connection was lost"))
        return result

    monkeypatch.setattr("txpatterns.sagas.engine._COMPARE_EVERY", timedelta(days=1))
    monkeypatch.setattr(shop.app.database, "transact", and_lose_the_answer)
    saga_of(shop, order)
    await shop.run(order)
    assert len(lost) == 1
    assert await shop.effects() == ["reserve A1"]


async def test_a_step_that_ends_its_transaction_by_itself_is_not_repeated(shop: Shop) -> None:
    """P4: half of its work stands, so a second attempt could do it twice: a person decides."""

    async def commits(tx: StepTransaction) -> None:
        await reserve(tx, "A1")
        await tx.session.commit()
        await reserve(tx, "B2")

    async def order(saga: SagaContext) -> None:
        await saga.step(commits)

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    await shop.rest()
    row = await shop.row()
    assert row["due_at"] is None
    assert "commits has ended its transaction by itself" in row["attention"]
    assert await shop.effects() == ["reserve A1"]


class Written:
    """A row of effects as an object, which a flush writes."""


async def test_a_step_whose_flush_fails_has_failed(shop: Shop) -> None:
    """P4, H441: the session rolls back by itself then; nothing of the step stands, so nobody has to be asked."""
    mapping = registry()
    mapping.map_imperatively(Written, effect)

    async def breaks(tx: StepTransaction) -> None:
        tx.session.add(Written())
        await tx.session.flush()

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(breaks, retry=RetryLadder(()))

    saga_of(shop, order, retry=QUICK)
    with pytest.raises(SagaFailed, match="IntegrityError"):
        await shop.run(order)
    mapping.dispose()
    assert await shop.effects() == ["reserve A1", "release A1"]


async def test_what_a_saga_sends_is_sent_once(shop: Shop) -> None:
    """P4, P1: by its code and by its steps, under ids that are the same in each attempt."""
    ids: list[str] = []
    tries: list[int] = []

    async def step(tx: StepTransaction) -> None:
        ids.append(tx.emit(Told(what="step")))
        tries.append(tx.attempt)
        if len(tries) == 1:
            raise ConnectionError("not yet")

    async def order(saga: SagaContext) -> None:
        saga.emit(Told(what="begun"))
        await saga.step(step)
        saga.emit(Told(what="over"))

    saga_of(shop, order)
    messages: list[str] = []

    @shop.app.on(Told)
    async def hear(event: Told, tx) -> None:  # type: ignore[no-untyped-def]
        messages.append(event.what)
        assert tx.message.headers["causation-id"] == "order-1"

    await shop.run(order)
    await shop.rest()
    assert sorted(messages) == ["begun", "over", "step"]
    assert ids[0] == ids[1]


async def test_a_commit_that_fails_leaves_nothing_of_what_it_would_have_told(postgres_shop: Shop) -> None:
    """P4, H174: the code was told of a step that is rolled back, so it is run again from the journal."""
    create = "CREATE TABLE strict (id int PRIMARY KEY, of int REFERENCES strict DEFERRABLE INITIALLY DEFERRED)"
    async with postgres_shop.app.transaction() as session:
        await session.execute(sa.text(create))
    tries: list[int] = []
    told: list[str] = []

    async def fails_late(tx: StepTransaction, number: int) -> str:
        tries.append(tx.attempt)
        of = number if len(tries) > 2 else 99
        await tx.session.execute(sa.text("INSERT INTO strict VALUES (:id, :of)"), {"id": number, "of": of})
        return "strict"

    async def order(saga: SagaContext) -> str:
        found = await saga.gather(saga.step(fails_late, 1), saga.step(reserve, "A1"))
        told.append("both")
        return found[0]

    saga_of(postgres_shop, order)
    assert await postgres_shop.run(order) == "strict"
    assert tries == [1, 2, 3]
    assert await postgres_shop.effects() == ["reserve A1"]
    assert [fact.number for fact in await postgres_shop.facts() if isinstance(fact, Attempted)] == [1, 2]


@pytest.fixture
async def postgres_shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


async def test_a_saga_that_several_owners_have_died_of_is_left_alone(sqlite_shop: Shop) -> None:
    """P4, H173: a person is told; the others go on."""

    async def order(saga: SagaContext, sku: str) -> None:
        await saga.step(reserve, sku)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order, "A1", id="poison")
    await sqlite_shop.start(order, "B2", id="healthy")
    dead = {"owner": "somebody", "crashes": 2}
    await sqlite_shop.app.database.execute(sa.update(saga_table).where(saga_table.c.id == "poison").values(**dead))
    await sqlite_shop.rest()
    poison = await sqlite_shop.row("poison")
    assert "3 processes have died" in poison["attention"]
    assert (poison["status"], poison["due_at"], poison["owner"]) == ("running", None, None)
    assert await sqlite_shop.effects() == ["reserve B2"]


async def test_an_engine_that_stops_gives_back_what_it_has(shop: Shop) -> None:
    """P4, P7: a step that runs ends, what follows is left to the next engine, and nobody waits for a lease."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: StepTransaction) -> str:
        begun.set()
        await go_on.wait()
        return await reserve(tx, "A1")

    async def order(saga: SagaContext) -> str:
        await saga.step(slow)
        return await saga.step(reserve, "B2")

    saga_of(shop, order)
    handle = await shop.start(order)

    async with shop.app:
        engine = shop.app._make_engine()
        running = asyncio.create_task(engine.run())
        await begun.wait()
        engine.stop()
        go_on.set()
        await running
    assert await shop.effects() == ["reserve A1"]
    row = await shop.row()
    assert (row["status"], row["owner"]) == ("running", None)
    assert row["due_at"] is not None
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "hold B2"


async def test_several_engines_share_the_sagas(shop: Shop) -> None:
    """P4, H172: each saga is run by one of them at a time, and each step once."""

    async def order(saga: SagaContext, sku: str) -> str:
        await saga.gather(saga.step(reserve, sku), saga.step(pack, sku))
        return await saga.step(reserve, f"{sku}!")

    saga_of(shop, order)
    other = another(shop)
    saga_of(other, order)
    handles = [await shop.start(order, f"{number}", id=f"order-{number}") for number in range(30)]
    async with shop.app.running(), other.app.running():
        for handle in handles:
            await handle.result(timeout=PATIENCE)
    effects = await shop.effects()
    assert len(effects) == len(set(effects)) == 90


async def test_the_key_of_a_step_is_the_same_in_each_attempt(sqlite_shop: Shop) -> None:
    """P4: what a step gives away as its key tells it from all others, and its repeats from none."""
    keys: list[str] = []

    def step(tx: SyncStepTransaction, name: str) -> None:
        keys.append(tx.key)
        if len(keys) == 1:
            raise ConnectionError("not yet")

    async def order(saga: SagaContext) -> None:
        await saga.step(step, "a")
        await saga.step(step, "a")

    saga_of(sqlite_shop, order)
    await sqlite_shop.run(order)
    assert keys == ["shop.order/order-1/1/1", "shop.order/order-1/1/1", "shop.order/order-1/1/2"]


async def test_a_saga_that_sleeps_is_a_row(shop: Shop) -> None:
    """P4: no task and no owner; the wait begins when it is awaited first, and outlives the process."""

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.sleep(timedelta(hours=1)), saga.sleep(timedelta(hours=2)))

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    row = await shop.row()
    assert (row["status"], row["owner"]) == ("waiting", None)
    assert timedelta(minutes=59) < row["due_at"] - row["started_at"] < timedelta(minutes=61)
    await shop.rest()
    assert (await shop.row())["due_at"] == row["due_at"]


async def test_a_saga_that_sleeps_before_anything_else_wakes_up(tmp_path) -> None:
    """P4: since when it waits, and what it has sent before, are written although it has done nothing yet."""
    clock = ManualClock()

    async def order(saga: SagaContext) -> None:
        saga.emit(Told(what="begun"))
        await saga.sleep(timedelta(hours=1))

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order)
        handle = await shop.start(order)
        await shop.rest()
        assert [fact.fact for fact in await shop.facts()] == ["noted", "waiting"]
        clock.advance(timedelta(hours=1))
        await shop.rest()
        assert await handle.status() == "completed"


async def test_an_app_with_sagas_needs_their_tables(sqlite_shop: Shop) -> None:
    """P7, H100: an App without any works on the tables of the release before."""

    async def order(saga: SagaContext) -> None: ...

    for table in ("txp_saga_journal", "txp_saga"):
        await sqlite_shop.app.database.execute(sa.text(f"DROP TABLE {table}"))
    without = another(sqlite_shop)
    async with without.app.running():
        await without.app.drained()
    saga_of(sqlite_shop, order)
    with pytest.raises(SchemaError, match="txp_saga"):
        await sqlite_shop.rest()


async def test_a_ladder_may_have_no_steps(sqlite_shop: Shop) -> None:
    """P4: one attempt is all there is; the undoing is tried on all the same."""

    async def breaks(tx: StepTransaction) -> None:
        raise ConnectionError("no route")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(breaks, retry=RetryLadder(()))

    saga_of(sqlite_shop, order, retry=QUICK)
    with pytest.raises(SagaFailed, match="ConnectionError"):
        await sqlite_shop.run(order)
    assert await sqlite_shop.effects() == ["reserve A1", "release A1"]
    assert [fact.value for fact in await sqlite_shop.facts() if isinstance(fact, Ended)] == ['"hold A1"']


@pytest.mark.parametrize("crashes", [0, 2])
async def test_an_engine_stops_although_an_operation_hangs(tmp_path, crashes: int) -> None:
    """P7, H310: with every place taken, and with a saga that must run alone; what it has is given back."""
    settings = SagaSettings(at_once=1, stop_within=timedelta(0))
    begun = asyncio.Event()

    async def hang(call: Call) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def order(saga: SagaContext) -> None:
        await saga.call(hang)

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", settings=settings) as shop:
        saga_of(shop, order)
        await shop.start(order)
        await shop.app.database.execute(sa.update(saga_table).values(crashes=crashes))
        async with asyncio.timeout(PATIENCE.total_seconds()), shop.app.running():
            await begun.wait()
        assert (await shop.row())["owner"] is None


async def test_an_engine_that_stops_begins_no_step_any_more(sqlite_shop: Shop, monkeypatch) -> None:
    """P7, H310: a step that waits for its turn is begun by whoever has the saga next; what runs comes to its end."""
    began, begun, stops = list[str](), asyncio.Event(), asyncio.Event()
    stop = SagaEngine.stop

    @instead_of(monkeypatch, SagaEngine, stop)
    def told(self: SagaEngine) -> None:
        stop(self)
        stops.set()

    async def step(tx: StepTransaction) -> str:
        began.append(tx.saga_id)
        begun.set()
        await stops.wait()
        return tx.saga_id

    async def order(saga: SagaContext) -> str:
        return await saga.step(step)

    saga_of(sqlite_shop, order)
    for number in range(4):
        await sqlite_shop.start(order, id=f"order-{number}")
    async with sqlite_shop.app.running():
        await begun.wait()
    assert len(began) == 1
    assert (await sqlite_shop.row(began[0]))["status"] == "completed"
    await sqlite_shop.rest()
    assert sorted(began) == [f"order-{number}" for number in range(4)]


async def test_a_process_that_was_paused_has_not_died(any_database: str) -> None:
    """P7, H311: its membership has run out, and what it runs is free: it takes that when it is a member again."""
    paused = timedelta(seconds=3)
    settings = SagaSettings(stop_within=timedelta(0), lease_ttl=paused, poll_interval=timedelta(milliseconds=20))
    calls = asyncio.Queue[Call]()

    async def hang(call: Call) -> None:
        calls.put_nowait(call)
        await asyncio.Event().wait()

    async def order(saga: SagaContext) -> None:
        await saga.call(hang)

    async with opened(any_database, settings=settings) as shop:
        saga_of(shop, order)
        await shop.start(order)
        async with asyncio.timeout(PATIENCE.total_seconds()), shop.app.running():
            await calls.get()
            over = sa.update(member_table).where(member_table.c.scope == SCOPE)
            await shop.app.database.execute(over.values(expires_at=shop.app.database.now(-paused)))
            await calls.get()
            row = await shop.row()
    assert (row["epoch"], row["crashes"]) == (2, 0)


async def test_an_undoing_that_cannot_be_committed_climbs_the_ladder(sqlite_shop: Shop) -> None:
    """P4, H313: what fails at the commit is an attempt as any other: the next one waits, and a person is told."""
    tries: list[int] = []

    async def other(saga: SagaContext, text: str) -> None: ...

    async def undo(tx: StepTransaction, sku: str) -> None:
        tries.append(tx.attempt)
        sqlite_shop.app.sagas.start(tx.session, other, "this", id="taken")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=undo)
        await saga.step(refuse, 7)

    sqlite_shop.app.saga("other")(other)
    saga_of(sqlite_shop, order, retry=RetryLadder((timedelta(milliseconds=1), timedelta(hours=1)), jitter=0))
    await sqlite_shop.start(other, "that", id="taken")
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert (tries, row["status"], row["owner"]) == ([1, 2], "compensating", None)
    assert [fact.failure.type for fact in await sqlite_shop.facts() if isinstance(fact, Attempted)] == [
        "txpatterns.errors:IdReused",
        "txpatterns.errors:IdReused",
    ]


async def test_a_saga_ends_that_had_something_to_undo_and_has_not_any_more(sqlite_shop: Shop) -> None:
    """P4, H171: a deploy takes a compensation away that had failed until then."""

    async def never(tx: StepTransaction, sku: str) -> None:
        raise Declined(7)

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=never)
        await saga.step(refuse, 7)

    async def less(saga: SagaContext) -> None:
        await saga.step(reserve, "A1")
        await saga.step(refuse, 7)

    saga_of(sqlite_shop, order, retry=RetryLadder((timedelta(milliseconds=200),), jitter=0))
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    other = another(sqlite_shop)
    saga_of(other, less)
    async with other.app.running():
        with pytest.raises(SagaFailed, match="Declined"):
            await other.app.sagas.handle(less, "order-1").result(timeout=PATIENCE)


async def test_an_error_that_the_saga_names_is_no_mistake(sqlite_shop: Shop) -> None:
    """P4, H314: whatever it derives from, it undoes the saga when it leaves the code."""

    class SoldOut(LookupError): ...

    async def sell(tx: StepTransaction) -> None:
        raise SoldOut("A1")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(sell)

    saga_of(sqlite_shop, order, errors=[SoldOut])
    with pytest.raises(SagaFailed, match="SoldOut: A1"):
        await sqlite_shop.run(order)
    assert await sqlite_shop.effects() == ["reserve A1", "release A1"]


class Unsayable(Exception):
    """An error whose text nobody can have."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("\x00"), ValueError("\udcff"), Reject("\x00\udcff"), Unsayable(1)])
async def test_whatever_an_error_says_the_saga_ends(any_database: str, error: Exception) -> None:
    """P4, H312: a NUL, half of a surrogate pair, and no text at all."""

    async def fails(tx: StepTransaction) -> None:
        raise error

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.step(fails)

    async with opened(any_database) as shop:
        saga_of(shop, order, errors=[Unsayable])
        with pytest.raises(SagaFailed):
            await shop.run(order)
        assert await shop.effects() == ["reserve A1", "release A1"]


async def test_arguments_that_the_code_does_not_take_any_more_need_a_person(sqlite_shop: Shop) -> None:
    """P4, H312, H171: nothing is undone; the text of before goes on."""

    async def order(saga: SagaContext, sku: str) -> str:
        return sku

    async def changed(saga: SagaContext, sku: str, quantity: int) -> str:
        return sku * quantity

    saga_of(sqlite_shop, order)
    handle = await sqlite_shop.start(order, "A1")
    other = another(sqlite_shop)
    saga_of(other, changed)
    await other.rest()
    assert "started with other arguments" in (await sqlite_shop.row())["attention"]
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "A1"


async def test_what_nobody_thought_of_is_shown_to_a_person(sqlite_shop: Shop) -> None:
    """P4, H312: a message that the outbox refuses for example; it is tried again later, not at once."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.sleep(timedelta(0))
        saga.emit(Told(what="x" * 2000))

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert row["attention"].startswith("its run ended unexpectedly: AddRefused")
    assert (row["status"], row["owner"]) == ("running", None)
    assert await sqlite_shop.effects() == ["reserve A1"]


async def test_what_was_not_written_is_not_built_upon(postgres_shop: Shop) -> None:
    """P4, H174: the code was told of a call that could not be written; a step of another branch is rolled back."""
    told = asyncio.Event()

    async def ask(call: Call) -> str:
        return "answer"

    async def waits(tx: StepTransaction) -> None:
        await tx.session.execute(sa.insert(effect).values(what="waited"))
        await told.wait()

    async def branch(saga: SagaContext) -> None:
        await saga.call(ask)
        told.set()
        saga.emit(Told(what="x" * 2000))
        await saga.call(ask)

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.step(waits), branch(saga))

    saga_of(postgres_shop, order)
    await postgres_shop.start(order)
    async with postgres_shop.app.running():
        await postgres_shop.watch.flagged.wait()
    assert "AddRefused" in (await postgres_shop.row())["attention"]
    assert await postgres_shop.effects() == []
    assert not [fact for fact in await postgres_shop.facts() if isinstance(fact, Ended)]


async def test_what_a_person_is_asked_about_is_not_begun_anew_by_what_else_runs(shop: Shop) -> None:
    """P4: a branch that fails beside a step of which half is done; neither is tried before somebody has looked."""
    halves: list[int] = []

    async def half(tx: StepTransaction) -> None:
        halves.append(tx.attempt)
        await tx.session.execute(sa.insert(effect).values(what="half"))
        await tx.session.commit()
        raise ValueError("the other half")

    async def ask(call: Call) -> None:
        await shop.watch.flagged.wait()
        raise TypeError("wrong")

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.step(half), saga.call(ask, retry=RetryLadder(())))

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    row = await shop.row()
    assert (halves, row["due_at"], row["owner"]) == ([1], None, None)
    assert "half has ended its transaction by itself" in row["attention"]
