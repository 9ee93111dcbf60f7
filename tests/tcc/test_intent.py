"""Participants outside of the database: noted first, then asked, each time under a key."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from tcc.support import Shop, another
from txpatterns.errors import Reject
from txpatterns.tcc import BranchCall, Participant, Status, TccSettings


class Bank:
    """Somebody else's service: what it was asked for, and what it says instead."""

    def __init__(self, shop: Shop) -> None:
        self.asked: list[tuple[str, str, object]] = []
        self.fails: list[BaseException] = []
        self.hangs = False
        self.came = asyncio.Event()
        tcc = shop.app.tcc

        @tcc.participant("bank", mode="intent")
        async def charge(call: BranchCall, amount: int) -> str:
            return await self._do(call, f"charge {amount}")

        @charge.confirm
        async def capture(call: BranchCall, amount: int) -> None:
            await self._do(call, f"capture {amount}")

        @charge.cancel
        async def refund(call: BranchCall, amount: int) -> None:
            await self._do(call, f"refund {amount}")

        self.charge: Participant[[int], str] = charge

    async def _do(self, call: BranchCall, what: str) -> str:
        self.asked.append((what, call.key, call.result))
        self.came.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise self.fails.pop(0)
        return f"{what} done"


async def test_all_is_confirmed_inside_and_outside(shop: Shop):
    """P5, I25, I26: each of the calls has a key of its own, and confirming is told what the try has returned."""
    bank = Bank(shop)
    async with shop.app.tcc.transaction("order-1") as tcc:
        assert await tcc.try_(bank.charge, 5) == "charge 5 done"
        await tcc.try_(shop.stock, "A", 2)
    assert tcc.status == Status.CONFIRMED
    assert bank.asked == [
        ("charge 5", "shop/order-1/1/try", None),
        ("capture 5", "shop/order-1/1/confirm", "charge 5 done"),
    ]
    assert await shop.stands("A") == (8, 0, 2)


async def test_plain_functions_ask_outside_in_a_thread(shop: Shop):
    """P5, I25, I26, H377: the loop goes on meanwhile, for each of the three; what is refused is refused."""
    asked: list[str] = []
    tcc, loop = shop.app.tcc, asyncio.get_running_loop()
    came = asyncio.Event()

    def do(call: BranchCall, what: str) -> str:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        loop.call_soon_threadsafe(came.set)
        asyncio.run_coroutine_threadsafe(came.wait(), loop).result(timeout=120)
        asked.append(f"{what} under {call.key}")
        return what

    @tcc.participant("till", mode="intent")
    def charge(call: BranchCall, amount: int) -> str:
        if amount > 100:
            raise Reject("too much")
        return do(call, f"charge {amount}")

    @charge.confirm
    def capture(call: BranchCall, amount: int) -> None:
        do(call, f"capture {call.result}")

    @charge.cancel
    def refund(call: BranchCall, amount: int) -> None:
        do(call, f"refund {call.result}")

    async with tcc.transaction("order-1") as first:
        assert await first.try_(charge, 5) == "charge 5"
    second = tcc.transaction("order-2")
    with pytest.raises(Reject):
        async with second:
            [await second.try_(charge, amount) for amount in (7, 101)]
    assert asked == [
        "charge 5 under shop/order-1/1/try",
        "capture charge 5 under shop/order-1/1/confirm",
        "charge 7 under shop/order-2/1/try",
        "refund charge 7 under shop/order-2/1/cancel",
    ]


async def test_a_thread_that_hangs_is_given_up(sqlite_shop: Shop):
    """P5, H377: when its time is over it is in doubt, and cancelled like any other call."""
    go_on, is_refunded, asked = threading.Event(), threading.Event(), list[str]()
    tcc = Shop(sqlite_shop.app.database, TccSettings(call_timeout=timedelta(milliseconds=50))).app.tcc

    @tcc.participant("till", mode="intent")
    def charge(call: BranchCall, amount: int) -> str:
        go_on.wait(timeout=120)
        return "late"

    @charge.confirm
    def capture(call: BranchCall, amount: int) -> None:
        asked.append("capture")

    @charge.cancel
    def refund(call: BranchCall, amount: int) -> None:
        asked.append(f"refund {call.result}")
        is_refunded.set()

    try:
        with pytest.raises(TimeoutError):
            async with tcc.transaction("order-1") as first:
                await first.try_(charge, 5)
    finally:
        go_on.set()
    assert await asyncio.to_thread(is_refunded.wait, 60)
    assert set(asked) == {"refund None"}


async def test_the_row_is_there_before_the_call(shop: Shop):
    """T6, I26: a process that dies in its call has left what cancels it, though nobody knows what came of it."""
    bank = Bank(shop)
    bank.hangs = True
    tcc = shop.app.tcc.transaction("order-1")
    await tcc.__aenter__()
    trying = asyncio.ensure_future(tcc.try_(bank.charge, 5))
    await bank.came.wait()
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    assert await shop.branches() == [("bank", "trying")]
    await shop.set(due_at=shop.app.database.now())
    other = another(shop)
    recovering = Bank(other)
    await other.rest()
    assert recovering.asked == [("refund 5", "shop/order-1/1/cancel", None)]
    assert await shop.branches() == [("bank", "cancelled")]


async def test_a_call_that_failed_is_cancelled_though_the_rest_is_confirmed(shop: Shop):
    """T6, I26: it may have reserved; whoever goes on without it has it given back."""
    bank = Bank(shop)
    bank.fails = [ConnectionError("lost")]
    async with shop.app.tcc.transaction("order-1") as tcc:
        with pytest.raises(ConnectionError):
            await tcc.try_(bank.charge, 5)
        await tcc.try_(shop.stock, "A", 2)
    assert [what for what, _, _ in bank.asked] == ["charge 5", "refund 5"]
    assert await shop.stands("A") == (8, 0, 2)


async def test_a_call_that_was_refused_is_not_cancelled(shop: Shop):
    """P5: whoever says no has reserved nothing."""
    bank = Bank(shop)
    bank.fails = [Reject("no credit")]
    with pytest.raises(Reject):
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(bank.charge, 5)
    assert [what for what, _, _ in bank.asked] == ["charge 5"]
    assert (tcc.status, await shop.branches()) == (Status.CANCELLED, [("bank", "refused")])


async def test_a_confirm_outside_that_fails_is_repeated(shop: Shop):
    """I25, I26: under the same key, until it succeeds; the others are confirmed at once."""
    bank = Bank(shop)
    async with shop.app.tcc.transaction("order-1") as tcc:
        await tcc.try_(bank.charge, 5)
        await tcc.try_(shop.stock, "A", 2)
        bank.fails = [ConnectionError("away")] * 4
    assert (tcc.status, await shop.stands("A")) == (Status.CONFIRMING, (8, 0, 2))
    await shop.rest()
    assert await shop.app.tcc.status("order-1") == Status.CONFIRMED
    assert {key for what, key, _ in bank.asked if what == "capture 5"} == {"shop/order-1/1/confirm"}
    assert len(bank.asked) == 6


async def test_a_call_that_hangs_is_given_up(sqlite_shop: Shop):
    """P5: after call_timeout nobody knows what came of it."""
    shop = Shop(sqlite_shop.app.database, TccSettings(call_timeout=timedelta(milliseconds=20)))
    bank = Bank(shop)
    bank.hangs = True
    with pytest.raises(TimeoutError):
        async with shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(bank.charge, 5)
    assert [what for what, _, _ in bank.asked] == ["charge 5", "refund 5"]
    assert tcc.status == Status.CANCELLING
