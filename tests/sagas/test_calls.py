"""Calls to others: at least once, under one key, and in doubt where nobody knows what has become of them."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta

import pytest

from rig.planting import instead_of
from sagas.support import PATIENCE, QUICK, Declined, Shop, opened, refuse, release, reserve, saga_of
from txpatterns import Reject, RetryLadder
from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.errors import NotBegun, SagaDefinitionError, SagaFailed, StepFailed
from txpatterns.sagas import Call, Done, Doubt, NotDone, SagaContext, StepTransaction, Undo, Unknown
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.facts import Attempted, Begun, Ended, Failed, Finished, Undone
from txpatterns.sagas.grouping import GroupWriter
from txpatterns.sagas.store import Write
from txpatterns.testing.clock import ManualClock


class Bank:
    """Somebody else's service: what it was asked for, and how it answers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.undone: list[Undo[str]] = []
        self.answers: list[BaseException | None] = []
        self.found: list[Done[str] | NotDone | Unknown] = []

    async def charge(self, call: Call, amount: int) -> str:
        self.calls.append(call)
        error = self.answers.pop(0) if self.answers else None
        if error is not None:
            raise error
        return f"charged {amount}"

    async def refund(self, undo: Undo[str], amount: int) -> None:
        self.undone.append(undo)

    async def look_up(self, call: Call, amount: int) -> Done[str] | NotDone | Unknown:
        return self.found.pop(0)


@pytest.fixture
def bank() -> Bank:
    return Bank()


async def test_a_call_is_written_down_before_it_begins(shop: Shop, bank: Bank) -> None:
    """P4: that it may be under way, and then at once what it gave; three calls are four rows."""
    seen: list[list[str]] = []

    async def order(saga: SagaContext) -> list[str]:
        return [await saga.call(charge, amount) for amount in (1, 2, 3)]

    async def charge(call: Call, amount: int) -> str:
        seen.append(
            [f"{fact.fact} {fact.mark.path}" for fact in await shop.facts() if isinstance(fact, (Begun, Ended))]
        )
        return await bank.charge(call, amount)

    saga_of(shop, order)
    assert await shop.run(order) == ["charged 1", "charged 2", "charged 3"]
    assert seen[0] == ["begun 1"]
    assert seen[2] == ["begun 1", "ended 1", "begun 2", "ended 2", "begun 3"]
    assert [call.key for call in bank.calls] == [f"shop.order/order-1/1/{n}" for n in (1, 2, 3)]


async def test_an_error_leaves_a_call_in_doubt(shop: Shop, bank: Bank) -> None:
    """P4: without a probe it is made again with the same key, on the ladder."""

    async def order(saga: SagaContext) -> str:
        return await saga.call(bank.charge, 7)

    bank.answers = [ConnectionError("lost"), TimeoutError("late")]
    saga_of(shop, order)
    assert await shop.run(order) == "charged 7"
    assert [call.attempt for call in bank.calls] == [1, 2, 3]
    assert len({call.key for call in bank.calls}) == 1


async def test_a_probe_finds_out_what_has_become_of_a_call(shop: Shop, bank: Bank) -> None:
    """P4: unknown is asked again on the ladder; not done is made again; done is what it gave, and is not made again."""

    async def order(saga: SagaContext) -> tuple[str, str]:
        return await saga.call(bank.charge, 7, probe=bank.look_up), await saga.call(bank.charge, 8, probe=bank.look_up)

    bank.answers = [ConnectionError("lost"), None, ConnectionError("lost")]
    bank.found = [Unknown(), NotDone(), Done("charged before")]
    saga_of(shop, order)
    assert await shop.run(order) == ("charged 7", "charged before")
    assert [call.attempt for call in bank.calls] == [1, 3, 1]


async def test_a_call_that_was_refused_has_had_no_effect(shop: Shop, bank: Bank) -> None:
    """P4: the code is told at once, and nothing is undone."""

    async def order(saga: SagaContext) -> list[str]:
        told = []
        for amount in (1, 2):
            try:
                await saga.call(bank.charge, amount, compensate=bank.refund)
            except (Declined, StepFailed) as error:
                told.append(type(error).__name__)
        await saga.call(bank.charge, 3, compensate=bank.refund)
        await saga.step(refuse, 4)
        return told

    bank.answers = [Declined(1), Reject("no such account")]
    saga_of(shop, order)
    with pytest.raises(SagaFailed, match="Declined: 4"):
        await shop.run(order)
    assert [(undo.of, undo.result) for undo in bank.undone] == [("shop.order/order-1/1/3", "charged 3")]
    assert bank.undone[0].key == "shop.order/order-1/1/3/undo"


async def test_a_call_that_was_not_made_counts_for_no_attempt(sqlite_shop: Shop, bank: Bank) -> None:
    """P4: it is made later, and a ladder without steps is enough."""

    async def order(saga: SagaContext) -> str:
        return await saga.call(bank.charge, 7, retry=RetryLadder(()), doubt=Doubt.ASK)

    bank.answers = [NotBegun("the breaker is open", after=timedelta(0)) for _ in range(5)]
    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order) == "charged 7"
    assert [call.attempt for call in bank.calls] == [1] * 6


async def test_a_call_that_takes_too_long_is_cut_off(sqlite_shop: Shop, bank: Bank) -> None:
    """P4: it is in doubt then, and made again."""
    hangs = asyncio.Event()

    async def charge(call: Call, amount: int) -> str:
        if call.attempt == 1:
            await hangs.wait()
        return await bank.charge(call, amount)

    async def order(saga: SagaContext) -> str:
        return await saga.call(charge, 7, timeout=timedelta(milliseconds=1))

    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order) == "charged 7"
    (attempted,) = [fact for fact in await sqlite_shop.facts() if isinstance(fact, Attempted)]
    assert "TimeoutError" in attempted.failure.type


@pytest.mark.parametrize("ladder", [RetryLadder(()), RetryLadder((timedelta(days=1),))])
@pytest.mark.parametrize("has_pivot", [False, True])
async def test_who_asks_asks_at_once(sqlite_shop: Shop, bank: Bank, ladder: RetryLadder, has_pivot: bool) -> None:
    """P4, H371: a ladder is for attempts, and none follows: nobody waits a day, and nothing is undone."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        if has_pivot:
            saga.pivot()
        await saga.call(bank.charge, 7, doubt=Doubt.ASK, retry=ladder)

    bank.answers = [ConnectionError("lost")]
    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert (row["attention"], row["due_at"]) == ("nobody knows whether charge has had its effect", None)
    (attempted,) = [fact for fact in await sqlite_shop.facts() if isinstance(fact, Attempted)]
    assert "lost" in attempted.failure.text
    assert await sqlite_shop.effects() == ["reserve A1"]


async def test_who_asks_beside_a_probe_asks_when_its_ladder_is_used_up(sqlite_shop: Shop, bank: Bank) -> None:
    """P4, H371: nothing is undone of which nobody knows whether it was done; with a retry it is probed once more."""
    bank.answers = [ConnectionError("lost")]
    bank.found = [Unknown(), Unknown(), Unknown(), Done("charged 7")]

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        return await saga.call(bank.charge, 7, doubt=Doubt.ASK, probe=bank.look_up)

    saga_of(sqlite_shop, order)
    handle = await sqlite_shop.start(order)
    await sqlite_shop.rest()
    assert (await sqlite_shop.row())["attention"] == "nobody knows whether charge has had its effect"
    for _ in list(bank.found):
        assert (await sqlite_shop.row())["status"] == "running"
        await SagaInHand(sqlite_shop.app.database, "order-1", None, Deed("test", "try again")).retry()
        await sqlite_shop.rest()
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "charged 7"
    assert len(bank.calls) == 1


async def test_who_is_in_doubt_may_ask(sqlite_shop: Shop, bank: Bank) -> None:
    """P4: the saga waits for a person, and makes the call no second time."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.call(bank.charge, 7, doubt=Doubt.ASK)

    bank.answers = [ConnectionError("lost")]
    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    async with sqlite_shop.app.running():
        await sqlite_shop.watch.flagged.wait()
    await sqlite_shop.rest()
    row = await sqlite_shop.row()
    assert row["attention"] == "nobody knows whether charge has had its effect"
    assert row["due_at"] is None
    assert len(bank.calls) == 1
    assert await sqlite_shop.effects() == ["reserve A1"]


@pytest.mark.parametrize("doubt", [Doubt.AGAIN, Doubt.COMPENSATE])
async def test_what_is_in_doubt_for_good_is_undone_when_it_has_settled(tmp_path, bank: Bank, doubt: Doubt) -> None:
    """P4, H175: not before its request cannot be under way any more, or its effect would land behind the undoing."""
    clock = ManualClock()

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.call(bank.charge, 7, compensate=bank.refund, doubt=doubt, timeout=timedelta(seconds=40))

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        bank.answers = [ConnectionError("lost")] * 3
        saga_of(shop, order)
        await shop.start(order)
        for _ in range(3):
            await shop.rest()
            clock.advance(timedelta(seconds=1))
        await shop.rest()
        assert len(bank.calls) == (1 if doubt is Doubt.COMPENSATE else 3)
        row = await shop.row()
        assert (row["status"], row["owner"]) == ("compensating", None)
        assert bank.undone == []
        clock.advance(timedelta(seconds=70))
        await shop.rest()
        assert bank.undone == []
        clock.advance(timedelta(seconds=15))
        await shop.rest()
        assert [(undo.result, undo.attempt) for undo in bank.undone] == [(None, 1)]
        assert (await shop.row())["status"] == "compensated"
        assert await shop.effects() == ["reserve A1", "release A1"]
        assert [fact.failure.unknown for fact in await shop.facts() if isinstance(fact, Failed)] == [True]


async def test_undoing_a_call_is_tried_until_it_succeeds(shop: Shop, bank: Bank) -> None:
    """P4: under one key of its own, and what was done before waits for it."""

    async def hard(undo: Undo[str], amount: int) -> None:
        await bank.refund(undo, amount)
        if undo.attempt < 5:
            raise ConnectionError("not yet")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        await saga.call(bank.charge, 7, compensate=hard)
        await saga.step(refuse, 7)

    saga_of(shop, order)
    with pytest.raises(SagaFailed):
        await shop.run(order)
    assert [undo.attempt for undo in bank.undone] == [1, 2, 3, 4, 5]
    assert {(undo.key, undo.of) for undo in bank.undone} == {("shop.order/order-1/1/2/undo", "shop.order/order-1/1/2")}
    assert [fact.mark.path for fact in await shop.facts() if isinstance(fact, Undone)] == ["2", "1"]


async def test_a_call_behind_the_pivot_is_not_undone(sqlite_shop: Shop, bank: Bank) -> None:
    """P4: one that could be is refused, and so is one without any time."""

    async def order(saga: SagaContext) -> str:
        with pytest.raises(SagaDefinitionError, match="timeout"):
            saga.call(bank.charge, 7, timeout=timedelta(0))
        saga.pivot()
        with pytest.raises(SagaDefinitionError, match="after the pivot"):
            saga.call(bank.charge, 7, compensate=bank.refund)
        return await saga.call(bank.charge, 8)

    bank.answers = [ConnectionError("lost")] * 5
    saga_of(sqlite_shop, order, retry=QUICK)
    assert await sqlite_shop.run(order) == "charged 8"
    assert len(bank.calls) == 6


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
async def test_a_call_that_raises_what_ends_others_has_failed(sqlite_shop: Shop, bank: Bank, error: Exception) -> None:
    """P4, H312: neither its process nor its engine ends of it, and the saga is told as of any mistake."""

    async def order(saga: SagaContext) -> str:
        return await saga.call(bank.charge, 7)

    bank.answers = [error]
    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order) == "charged 7"
    assert [call.attempt for call in bank.calls] == [1, 2]


async def test_an_operation_is_begun_once_at_a_time(sqlite_shop: Shop) -> None:
    """P4: not while it is still being written that the attempt before has failed, however soon it is due again."""
    again, go = asyncio.Event(), asyncio.Event()
    made: list[int] = []

    async def busy(call: Call) -> None:
        made.append(call.attempt)
        await go.wait()
        if len(made) == 1:
            raise ConnectionError("no route")

    async def flaky(call: Call) -> None:
        if call.attempt == 1:
            raise ConnectionError("no route")
        again.set()

    async def order(saga: SagaContext) -> None:
        await saga.gather(
            saga.call(busy, retry=QUICK), saga.call(flaky, retry=RetryLadder((timedelta(milliseconds=300),)))
        )

    saga_of(sqlite_shop, order)
    handle = await sqlite_shop.start(order)
    async with sqlite_shop.app.running():
        while not any(isinstance(fact, Attempted) for fact in await sqlite_shop.facts()):
            continue
        async with sqlite_shop.app.database.writing():
            go.set()
            await again.wait()
            begun = list(made)
        await handle.result(timeout=timedelta(seconds=20))
    assert (begun, made) == ([1], [1, 2])


@pytest.mark.parametrize("doubt", [Doubt.COMPENSATE, Doubt.ASK])
async def test_a_call_that_was_not_made_is_not_in_doubt(sqlite_shop: Shop, bank: Bank, doubt: Doubt) -> None:
    """P4, H315: not after its process has let go of the saga, either; nothing is undone for it, and nobody is asked."""

    async def order(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        return await saga.call(bank.charge, 7, doubt=doubt)

    bank.answers = [NotBegun(after=timedelta(milliseconds=1))]
    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order) == "charged 7"
    begun = [fact.begun for fact in await sqlite_shop.facts() if isinstance(fact, Attempted)]
    assert (begun, [call.attempt for call in bank.calls]) == ([False], [1, 1])


@pytest.mark.parametrize("doubt", [Doubt.COMPENSATE, Doubt.ASK])
async def test_a_stop_leaves_no_doubt_about_what_was_not_begun(
    sqlite_shop: Shop, bank: Bank, doubt: Doubt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, P7, H315: the call that follows the one that ran at the stop is made by whoever goes on."""
    runs, go, stop = asyncio.Event(), asyncio.Event(), SagaEngine.stop

    def stops(engine: SagaEngine) -> None:
        stop(engine)
        go.set()

    async def first(call: Call) -> None:
        runs.set()
        await go.wait()

    async def order(saga: SagaContext) -> str:
        await saga.call(first)
        return await saga.call(bank.charge, 7, doubt=doubt)

    monkeypatch.setattr(SagaEngine, "stop", stops)
    saga_of(sqlite_shop, order)
    handle = await sqlite_shop.start(order)
    async with sqlite_shop.app.running():
        await runs.wait()
    assert bank.calls == []
    async with sqlite_shop.app.running():
        assert await handle.result(timeout=timedelta(seconds=20)) == "charged 7"


async def test_a_call_that_is_begun_after_all_is_in_doubt(sqlite_shop: Shop, bank: Bank) -> None:
    """P4, H315: that it begins is written again, also where its process has gone on with the saga meanwhile."""
    again, done = asyncio.Event(), asyncio.Event()

    async def call(call: Call) -> None:
        bank.calls.append(call)
        if len(bank.calls) == 1:
            raise NotBegun(after=timedelta(milliseconds=1))
        again.set()
        await done.wait()

    async def other(call: Call) -> None:
        await again.wait()

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.call(call), saga.call(other))

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    async with sqlite_shop.app.running():
        await again.wait()
        facts = [type(fact) for fact in await sqlite_shop.facts() if fact.mark.path == "1"]
        done.set()
    assert facts == [Begun, Attempted, Begun]


@pytest.mark.parametrize("after", [timedelta(0), timedelta(milliseconds=1)], ids=["at once", "later"])
async def test_what_is_not_begun_for_long_does_not_make_the_journal_longer(
    shop: Shop, bank: Bank, after: timedelta
) -> None:
    """P4, H337: a breaker may be open for hours; the saga is given back meanwhile, or goes on at once."""

    async def order(saga: SagaContext) -> tuple[str, str]:
        await saga.step(reserve, "A1")
        return await saga.gather(saga.call(bank.charge, 7, doubt=Doubt.ASK), saga.call(bank.charge, 8))

    bank.answers = [NotBegun("the breaker is open", after=after) for _ in range(20)]
    saga_of(shop, order)
    assert await shop.run(order) == ("charged 7", "charged 8")
    assert {call.attempt for call in bank.calls} == {1}
    assert len(bank.calls) == 22
    rows = await shop.rows()
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) <= 9


async def test_whoever_takes_a_saga_again_adds_nothing_for_what_is_not_begun(tmp_path, bank: Bank) -> None:
    """P4, H337: the saga is claimed anew each time that the breaker may be closed."""
    clock = ManualClock()

    async def order(saga: SagaContext) -> tuple[str, str]:
        return await saga.gather(saga.call(bank.charge, 7, doubt=Doubt.ASK), saga.call(bank.charge, 8))

    bank.answers = [NotBegun("the breaker is open", after=timedelta(minutes=1)) for _ in range(20)]
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order)
        await shop.start(order)
        for _ in range(11):
            await shop.rest()
            clock.advance(timedelta(minutes=2))
        assert (await shop.row())["status"] == "completed"
        rows = await shop.rows()
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) <= 8


@pytest.mark.parametrize("way", ["step", "call", "undoing a step", "undoing a call"])
async def test_what_fails_for_ever_does_not_make_the_journal_longer(sqlite_shop: Shop, bank: Bank, way: str) -> None:
    """P4, H337: a row for each wait of the ladder, and one for all that follow, whichever process makes them."""
    fails = list(range(10))

    def fail() -> None:
        if fails:
            raise TypeError(f"for the {11 - len(fails)}. time, and {fails.pop()} to go")

    async def step(tx: StepTransaction) -> None:
        fail()

    async def call(call: Call) -> None:
        fail()

    async def undo(undo: Undo[str], amount: int) -> None:
        fail()

    async def release_hard(tx: StepTransaction, sku: str) -> None:
        fail()

    async def order(saga: SagaContext) -> None:
        if way == "step":
            await saga.step(step)
        elif way == "call":
            await saga.call(call)
        elif way == "undoing a step":
            await saga.step(reserve, "A1", compensate=release_hard)
            saga.abort("no")
        else:
            await saga.call(bank.charge, 7, compensate=undo)
            saga.abort("no")

    saga_of(sqlite_shop, order)
    with nullcontext() if way in ("step", "call") else pytest.raises(SagaFailed):
        await sqlite_shop.run(order)
    facts = await sqlite_shop.facts()
    assert [fact.number for fact in facts if isinstance(fact, Attempted)] == [1, 2, 10]
    assert "for the 10. time" in next(fact for fact in reversed(facts) if isinstance(fact, Attempted)).failure.text
    rows = await sqlite_shop.rows()
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) <= 6


async def test_nothing_is_undone_before_it_is_written_why(sqlite_shop: Shop, bank: Bank, monkeypatch) -> None:
    """P4, H373: else, behind a crash, what was refused is tried again and succeeds, and the rest is refunded."""
    both, undone_by_then = asyncio.Barrier(2), list[int]()
    write = GroupWriter.write

    @instead_of(monkeypatch, GroupWriter, write)
    async def slowly(self: GroupWriter, saga: Claimed, n: int, written: Write) -> None:
        if any(isinstance(fact, Finished) for fact in written.facts):
            for _ in range(50):
                await asyncio.sleep(0)
            undone_by_then.append(len(bank.undone))
        await write(self, saga, n, written)

    async def charge(call: Call, amount: int) -> str:
        async with both:
            if amount == 8:
                raise Reject("no")
            return await bank.charge(call, amount)

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.call(charge, 7, compensate=bank.refund), saga.call(charge, 8, compensate=bank.refund))

    saga_of(sqlite_shop, order)
    with pytest.raises(SagaFailed, match="no"):
        await sqlite_shop.run(order)
    assert undone_by_then == [0]
    assert len(bank.undone) == 1
    assert [undo.of for undo in bank.undone] == [call.key for call in bank.calls]
