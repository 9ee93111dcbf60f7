"""Sagas under the fixture `txp`: time, signals, where one stands, crashes, leaks, and replays of every turn."""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from txpatterns import App, Event, RetryLadder
from txpatterns.errors import SagaFailed, WaitTimedOut
from txpatterns.sagas import Call, Handle, Saga, SagaContext, SagaStep, StepTransaction, SyncStepTransaction, Undo
from txpatterns.testing.explorer import Mode, Options, State, explore
from txpatterns.testing.hands import in_hand
from txpatterns.testing.harness import Txp
from txpatterns.testing.homes import Homes

LADDER = RetryLadder((timedelta(minutes=1), timedelta(minutes=10)), jitter=0)


class Paid(Event, topic="paid", type="paid", key="order_id"):
    order_id: str


class Packed(Event, topic="packed", type="packed", key="order_id"):
    order_id: str


class Refused(Exception):
    """The bank says no."""


class Shop:
    """An application as its module would hold it, with a bank beside it."""

    def __init__(self) -> None:
        self.app = App("shop", "sqlite+aiosqlite:///never-made.db", "memory://")
        self.bank: list[tuple[str, str]] = []
        self.is_away = False
        self.app.saga(signals=[Paid], errors=[Refused], retry=LADDER)(self.order)

    async def order(self, saga: SagaContext, order_id: str, cents: int) -> str:
        await saga.step(self.reserve, order_id, compensate=self.release, name="reserve")
        await saga.step(self.pack, order_id, name="pack")
        payment = await saga.call(self.charge, cents, compensate=self.refund, name="charge")
        await saga.sleep(timedelta(hours=1))
        try:
            await saga.wait_for(Paid, key=order_id, timeout=timedelta(days=1))
        except WaitTimedOut:
            saga.abort("nobody has paid")
        return payment

    async def reserve(self, tx: StepTransaction, order_id: str) -> None:
        tx.emit(Packed(order_id=order_id))

    async def release(self, tx: StepTransaction, order_id: str) -> None: ...

    def pack(self, tx: SyncStepTransaction, order_id: str) -> None: ...

    async def charge(self, call: Call, cents: int) -> str:
        if self.is_away:
            raise ConnectionError("the bank is away")
        if cents > 100:
            raise Refused
        self.bank.append(("charge", call.key))
        return "P-1"

    async def refund(self, undo: Undo[str], cents: int) -> None:
        self.bank.append(("refund", undo.of))

    async def place(self, cents: int = 5, id: str = "1") -> Handle[str]:
        async with self.app.transaction() as session:
            return self.app.sagas.start(session, self.order, id, cents, id=id)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def txp_app(shop: Shop) -> App:
    return shop.app


async def test_time_and_signals_move_a_saga(shop: Shop, txp: Txp) -> None:
    """P4, H341: a sleep ends at its time; an event ends a wait, by a webhook or over the broker; nothing else does."""
    first, second = await shop.place(id="1"), await shop.place(id="2")
    await txp.drain()
    assert (await txp.saga(first)).waits_for == ["sleep"]
    await txp.advance(minutes=59)
    assert (await txp.saga("1")).is_at("sleep")
    await txp.advance(minutes=2)
    assert (await txp.saga(first)).is_at("paid:")
    await txp.signal(Paid(order_id="1"))
    seen = await txp.saga(first)
    assert (seen.status, seen.result, seen.waits_for) == ("completed", "P-1", [])
    assert await first.result() == "P-1"
    assert (await txp.saga(second)).status == "waiting"
    await txp.receive(Paid(order_id="2"))
    assert (await txp.saga(second)).status == "completed"
    txp.assert_published(Packed, order_id="1", times=1)


async def test_what_does_not_come_in_time_undoes_a_saga(shop: Shop, txp: Txp) -> None:
    """P4, H341: what was done and undone is told in its order, with the error."""
    handle = await shop.place()
    await txp.drain()
    await txp.advance(days=2)
    seen = await txp.saga(handle)
    assert (seen.status, seen.error) == ("compensated", "Aborted: nobody has paid")
    assert (seen.done, seen.undone) == (["reserve", "pack", "charge"], ["charge", "reserve"])
    with pytest.raises(SagaFailed):
        await handle.result()


async def test_a_ladder_of_a_saga_takes_no_time(shop: Shop, txp: Txp) -> None:
    """P4, H341: each attempt at its time; in the end what is in doubt is undone when it has settled."""
    shop.is_away = True
    handle = await shop.place()
    await txp.drain()
    assert (await txp.saga(handle)).waits_for == ["call charge"]
    await txp.advance(minutes=1)
    await txp.advance(minutes=12)
    seen = await txp.saga(handle)
    assert (seen.status, seen.undone) == ("compensated", ["charge", "reserve"])
    assert "the bank is away" in (seen.error or "")


async def test_a_saga_is_run_to_a_step(shop: Shop, txp: Txp) -> None:
    """P4, H341: nothing of that step is done, and the next drain does it."""
    handle = await shop.place()
    seen = await txp.run_to(handle, "charge")
    assert (seen.done, seen.waits_for, shop.bank) == (["reserve", "pack"], ["call charge"], [])
    assert seen.is_at("charge")
    await txp.drain()
    assert [what for what, _ in shop.bank] == ["charge"]
    with pytest.raises(AssertionError, match="1 does not come to charge"):
        await txp.run_to(handle, "charge")
    txp.leave_open(handle)


@pytest.mark.parametrize("step", ["reserve", "pack"])
@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_process_that_dies_at_a_step_does_it_once(shop: Shop, txp: Txp, step: str, place: str) -> None:
    """P4, I20, H341: in the event loop and in a thread; the saga goes on from its journal."""
    handle = await shop.place()
    where: Any = {place: step}
    txp.crash(**where)
    seen = await txp.run_to(handle, "charge")
    assert seen.done == ["reserve", "pack"]
    assert txp.left_behind() != []
    txp.leave_open(handle)
    assert txp.left_behind() == []
    txp.assert_published(Packed, times=1)


@pytest.mark.parametrize(("place", "times"), [("before", 1), ("after", 2)])
async def test_a_process_that_dies_in_a_call_makes_it_again(shop: Shop, txp: Txp, place: str, times: int) -> None:
    """P4, I25, H341: behind the effect nobody knows, so it is made again with the same key."""
    handle = await shop.place()
    where: Any = {place: "charge"}
    txp.crash(**where, of=handle)
    await txp.drain()
    assert len(shop.bank) == times
    assert len(set(shop.bank)) == 1
    assert (await txp.saga(handle)).done == ["reserve", "pack", "charge"]
    txp.leave_open(handle)


@pytest.mark.parametrize("step", ["charge", "reserve"])
@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_process_that_dies_while_it_undoes(shop: Shop, txp: Txp, step: str, place: str) -> None:
    """P4, I22, H341: it is undone in the end, and the rest behind it."""
    handle = await shop.place()
    await txp.drain()
    where: Any = {place: step}
    txp.crash(**where, undoing=True)
    await txp.advance(days=2)
    seen = await txp.saga(handle)
    assert (seen.status, seen.undone) == ("compensated", ["charge", "reserve"])


async def test_a_saga_that_is_left_open_fails_the_test(shop: Shop, tmp_path: Path) -> None:
    """H341: and so does a crash that has not happened; whoever means it says so."""
    homes = Homes(tmp_path)
    hand = in_hand([shop.app], homes)
    txp = hand.__enter__()
    handle = await shop.place()
    txp.crash(before="nothing")
    await txp.drain()
    with pytest.raises(AssertionError, match=r"left open.* shop.order 1.*; a crash before nothing has not happened"):
        hand.__exit__(None, None, None)
    again = in_hand([shop.app], homes)
    txp = again.__enter__()
    handle = await shop.place()
    await txp.drain()
    txp.leave_open(handle)
    again.__exit__(None, None, None)


async def test_code_that_is_another_when_it_is_run_again_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, I23, H341: a clock that it reads by itself, a setting, a global: at the first turn, not after a restart."""
    app, homes = App("shop", "sqlite+aiosqlite:///never-made.db", "memory://"), Homes(tmp_path)

    async def note(tx: StepTransaction, what: str) -> None: ...

    @app.saga()
    async def reads_a_clock(saga: SagaContext) -> None:
        await saga.step(note, str(time.monotonic_ns()))

    @app.saga()
    async def reads_a_setting(saga: SagaContext) -> None:
        if os.environ.pop("NOT_THERE_AGAIN", None) is None:
            await saga.step(note, "it is gone")
        await saga.step(note, "it was there")

    @app.saga()
    async def returns_a_clock(saga: SagaContext) -> int:
        return time.monotonic_ns()

    told: dict[Any, str] = {
        reads_a_clock: "step note with other arguments",
        reads_a_setting: "step note with other arguments",
        returns_a_clock: "it returns",
    }
    for saga, expected in told.items():
        with in_hand([app], homes) as txp:
            monkeypatch.setenv("NOT_THERE_AGAIN", "1")
            async with app.transaction() as session:
                app.sagas.start(session, saga, id="1")
            with pytest.raises(AssertionError, match=f"shop.{saga.__name__} 1 does something else.*({expected})"):
                await txp.advance(hours=2)
            txp.leave_open("1")


async def test_several_apps_each_have_their_sagas(tmp_path: Path) -> None:
    """H341: a signal reaches those who wait for it, and a list of steps is a saga as any other."""
    one, other = Shop(), App("other", "sqlite+aiosqlite:///never-made.db", "memory://")

    async def hold(tx: StepTransaction, paid: Paid) -> str:
        return f"hold {paid.order_id}"

    listed = Saga("listed", Paid, [SagaStep("hold", hold)], result=lambda_of_nothing)
    other.saga()(listed)
    with in_hand([one.app, other], Homes(tmp_path)) as txp:
        handle = await one.place()
        async with other.transaction() as session:
            second = other.sagas.start(session, listed, Paid(order_id="1"), id="listed-1")
        await txp.drain()
        await txp.signal(Paid(order_id="1"))
        await txp.advance(hours=2)
        assert (await txp.saga(handle)).status == (await txp.saga(second)).status == "completed"
        with pytest.raises(AssertionError, match="there is no saga nothing"):
            await txp.saga("nothing")
        with pytest.raises(AssertionError, match="no saga here waits for Packed"):
            await txp.signal(Packed(order_id="1"))
        with pytest.raises(ValueError, match="name one step"):
            txp.crash()


def lambda_of_nothing(paid: Paid) -> None: ...


def test_a_plain_engine_serves_as_well(tmp_path: Path) -> None:
    """H341: the same without an event loop of the test's own."""
    app = App("shop", "sqlite:///never-made.db", "memory://")

    def note(tx: SyncStepTransaction, what: str) -> str:
        return what

    @app.saga(signals=[Paid])
    async def order(saga: SagaContext) -> str:
        await saga.wait_for(Paid, key="1", timeout=None)
        return await saga.step(note, "noted")

    with in_hand([app], Homes(tmp_path)) as txp:
        with app.sync_transaction() as session:
            handle = app.sagas.start(session, order, id="1")
        txp.crash(before="note")
        asyncio.run(txp.signal(Paid(order_id="1")))
        assert asyncio.run(txp.saga(handle)).result == "noted"


explored = App("explored", "sqlite+aiosqlite:///never-made.db", "memory://")


async def keep(tx: StepTransaction, what: str) -> str:
    tx.emit(Packed(order_id=what))
    return what


@explored.saga(signals=[Paid])
async def kept(saga: SagaContext) -> str:
    await saga.wait_for(Paid, key="1", timeout=None)
    return await saga.step(keep, "1")


async def start_kept(app: App) -> None:
    async with app.transaction() as session:
        app.sagas.start(session, kept, id="1")
        app.outbox.add(session, Paid(order_id="1"))


def was_kept_once(state: State) -> None:
    """I19, I20."""
    (row,) = state.rows("SELECT status, result FROM txp_saga") or [{"status": "completed", "result": '"1"'}]
    assert (row["status"], row["result"]) == ("completed", '"1"')
    assert sum(each["topic"] == "packed" for each in state.committed) <= 1


@pytest.mark.parametrize("most", [1, pytest.param(40, marks=pytest.mark.soak)])
async def test_the_crash_explorer_runs_an_apps_sagas(most: int) -> None:
    """P4, H341, I20: a process is really killed, and another goes on with the saga; its event comes by the broker."""
    options = Options(most=most, modes=(Mode.KILL_BEFORE, Mode.KILL_AFTER), seed=7)
    report = await explore(explored, start_kept, invariants=[was_kept_once], options=options)
    assert not report.failures, str(report)
    assert report.total
