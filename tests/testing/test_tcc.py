"""TCC transactions under the fixture `txp`: where one stands, its timeout, and what is left open."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from txpatterns import App, AppSettings, RetryLadder
from txpatterns.tcc import BranchTransaction, TccSettings
from txpatterns.testing.hands import in_hand
from txpatterns.testing.homes import Homes

LADDER = RetryLadder((timedelta(minutes=1),), jitter=0)


class Shop:
    """An application as its module would hold it."""

    def __init__(self) -> None:
        settings = AppSettings(tcc=TccSettings(ladder=LADDER))
        self.app = App("shop", "sqlite+aiosqlite:///never-made.db", "memory://", settings=settings)
        self.is_away = False

        @self.app.tcc.participant("stock")
        async def stock(tx: BranchTransaction, sku: str) -> str:
            return f"hold {sku}"

        @stock.confirm
        async def sell(tx: BranchTransaction, sku: str) -> None:
            if self.is_away:
                raise ConnectionError("the till is away")

        @stock.cancel
        async def release(tx: BranchTransaction, sku: str) -> None: ...

        self.stock = stock

    async def buy(self, id: str) -> str:
        async with self.app.tcc.transaction(id) as tcc:
            return await tcc.try_(self.stock, "A")

    async def begin(self, id: str) -> Any:
        """Try, and be gone."""
        tcc = self.app.tcc.transaction(id)
        await tcc.__aenter__()
        await tcc.try_(self.stock, "A")
        return tcc


async def test_where_one_stands(tmp_path: Path) -> None:
    """P5: by its id, with each participant; the test's own calls run on the test's database."""
    shop = Shop()
    with in_hand([shop.app], Homes(tmp_path)) as txp:
        assert await shop.buy("order-1") == "hold A"
        seen = await txp.tcc("order-1")
        assert (seen.status, list(seen.branches)) == ("confirmed", [("stock", "confirmed")])
        with pytest.raises(AssertionError, match="there is no TCC transaction none"):
            await txp.tcc("none")
        await txp.drain()


async def test_time_passes_for_a_timeout_and_a_ladder(tmp_path: Path) -> None:
    """P5, T4: only when the test says so."""
    shop = Shop()
    with in_hand([shop.app], Homes(tmp_path)) as txp:
        await shop.begin("order-1")
        shop.is_away = True
        await shop.buy("order-2")
        await txp.advance(seconds=30)
        assert [(await txp.tcc(each)).status for each in ("order-1", "order-2")] == ["trying", "confirming"]
        shop.is_away = False
        await txp.advance(minutes=15)
        assert [(await txp.tcc(each)).status for each in ("order-1", "order-2")] == ["cancelled", "confirmed"]


async def test_one_that_is_left_open_fails_the_test(tmp_path: Path) -> None:
    """H341: whoever means it says so."""
    shop, homes = Shop(), Homes(tmp_path)
    hand = in_hand([shop.app], homes)
    txp = hand.__enter__()
    await shop.begin("order-1")
    await txp.drain()
    with pytest.raises(AssertionError, match=r"a TCC transaction was left open.* shop order-1"):
        hand.__exit__(None, None, None)
    again = in_hand([shop.app], homes)
    txp = again.__enter__()
    await shop.begin("order-1")
    await txp.drain()
    txp.leave_open("order-1")
    again.__exit__(None, None, None)
