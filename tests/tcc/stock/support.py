"""A stock of each kind, opened empty; and shoppers, who want things from it until they know where they stand."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from txpatterns import Database
from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import OutOfStock, StockUnavailable
from txpatterns.tcc.stock import Level, Limits, MemoryStock, SqlStock, Stock, StockTables
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock

T = TypeVar("T")

metadata = sa.MetaData()
tables = StockTables(metadata)
A_WHILE = timedelta(minutes=15)
PATIENCE = 120.0


@asynccontextmanager
async def open_sql(url: str, clock: Clock | None = None) -> AsyncIterator[SqlStock]:
    async with Database(url, clock=clock) as database:
        stock = SqlStock(database, tables)
        await stock.transact(metadata.create_all)
        yield stock


@asynccontextmanager
async def open_ledger(url: str, clock: Clock | None = None) -> AsyncIterator[SqlLedger]:
    async with Database(url, clock=clock) as database:
        ledger = SqlLedger(database, tables)
        await ledger.stock.transact(metadata.create_all)
        yield ledger


@asynccontextmanager
async def open_redis(redis_url: str, url: str, clock: Clock | None = None) -> AsyncIterator[RedisStock]:
    async with open_ledger(url, clock) as ledger, RedisStock(redis_url, ledger, clock=clock) as stock:
        yield stock


@asynccontextmanager
async def open_memory(clock: Clock | None = None) -> AsyncIterator[MemoryStock]:
    yield MemoryStock(Limits(), clock=clock)


class InSessions:
    """The same calls, each in a session of its own, which is committed also when the stock says no."""

    def __init__(self, stock: SqlStock, *, plain: bool) -> None:
        self._stock = stock
        self._plain = plain
        self.forget = stock.forget
        self.overdue = stock.overdue

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*given: Any) -> Any:
            if self._plain:
                return await asyncio.to_thread(self._in_plain, name, *given)
            async with self._stock.database.session() as session:
                try:
                    return await getattr(self._stock.within(session), name)(*given)
                finally:
                    await session.commit()

        return call

    def _in_plain(self, name: str, *given: Any) -> Any:
        with self._stock.database.sync_session() as session:
            try:
                return getattr(self._stock.within(session), name)(*given)
            finally:
                session.commit()


@asynccontextmanager
async def open_in_sessions(url: str, clock: Clock | None, *, plain: bool) -> AsyncIterator[Stock]:
    async with open_sql(url, clock) as stock:
        yield cast("Stock", InSessions(stock, plain=plain))


async def persistently(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat while the stock cannot answer: what everybody does who has an id for it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await work()
            except StockUnavailable:
                await asyncio.sleep(0.005)


@dataclass
class Shoppers:
    """Many who reserve at once, and then buy it, or put it back, or leave it there."""

    stock: Stock
    items: tuple[str, ...]
    seed: int = 1
    answered: dict[str, dict[str, int]] = field(default_factory=dict)
    """What was promised to each, and is not put back."""
    refused: int = 0
    count: int = 0
    go_on: asyncio.Event | None = None
    """What each of them waits for when it has had its first answer."""

    async def shop(self, name: str, wishes: int) -> None:
        choice = random.Random(f"{self.seed} {name}")
        for n in range(wishes):
            lines = [(choice.choice(self.items), choice.randint(1, 2)) for _ in range(choice.randint(1, 3))]
            await self.want(f"{name}-{n}", lines, choice.choice(("buy", "keep", "return")))
            if self.go_on is not None:
                await self.go_on.wait()

    async def want(self, reservation_id: str, lines: list[tuple[str, int]], then: str) -> None:
        until = SystemClock().now() + A_WHILE
        try:
            made = await persistently(lambda: self.stock.reserve(reservation_id, lines, until))
        except OutOfStock:
            self.refused += 1
            return
        self.answered[reservation_id] = dict(made.lines)
        self.count += 1
        if then == "buy":
            await persistently(lambda: self.stock.confirm(reservation_id))
        elif then == "return":
            await persistently(lambda: self.stock.cancel(reservation_id))
            del self.answered[reservation_id]

    @property
    def promised(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for lines in self.answered.values():
            total.update(lines)
        return total


def check(shoppers: Shoppers, levels: dict[str, Level], loaded: dict[str, int]) -> None:
    """I27, P5: nothing is oversold or lost, and the books have what was promised, no more and no less."""
    for item, n in loaded.items():
        level = levels[item]
        assert min(level.available, level.reserved, level.sold) >= 0, (item, level)
        assert level.total == n, (item, level)
        assert level.reserved + level.sold == shoppers.promised[item], (item, level, shoppers.promised)
