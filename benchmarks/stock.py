"""Reservations: in Redis beside a bare pipeline of the same script, in PostgreSQL beside the same UPDATE by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.harness import Case, Table, compare
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import OutOfStock
from txpatterns.messages import new_id
from txpatterns.tcc.stock import Level, MemoryStock, Reservation, SqlStock, Stock, StockTables
from txpatterns.tcc.stock.ledger import Held, Hold, Kept, Picture, Settled, Total, Verdict
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.limits import MOST
from txpatterns.tcc.stock.redis import RedisStock
from txpatterns.tcc.stock.redis.rebuilding import Keys
from txpatterns.tcc.stock.redis.scripts import RESERVE, instant

AT_ONCE = 50
RESERVATIONS = 4000
ON_POSTGRESQL = 1000
ITEMS = [f"item {n}" for n in range(100)]
GOAL_REDIS, GOAL_SQL = 0.3, 0.5

Reserve = Callable[[str, str], Awaitable[object]]


class FreeLedger:
    """A ledger that costs nothing and keeps nothing: what is left is Redis, and the way there."""

    def __init__(self) -> None:
        self._stock = MemoryStock()
        self._generation = 0

    async def place(self) -> Hold:
        return Hold(self._generation, 0)

    async def begin(self, after: int, above: int = 0) -> int:
        self._generation = max(after, above) + 1
        return self._generation

    async def keep(self, held: Sequence[Held], generation: int) -> Kept:
        return Kept(Verdict.KEPT, {each.reservation.id: each for each in held})

    async def confirm(self, reservation_id: str) -> Settled:
        return Settled(True)

    async def cancel(self, reservation_id: str) -> Settled:
        return Settled(True)

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        return True

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        return await self._stock.load(quantities)

    async def set_available(self, item: str, quantity: int) -> Total:
        await self._stock.set_available(item, quantity)
        return Total(1, quantity)

    async def totals(self, items: Iterable[str]) -> Mapping[str, Total]:
        return {item: Total(1, level.total) for item, level in (await self._stock.levels(items)).items()}

    async def reservation(self, reservation_id: str) -> Reservation | None:
        return None

    async def picture(self) -> Picture:
        return Picture({item: (1, level) for item, level in (await self._levels()).items()}, [])

    async def _levels(self) -> Mapping[str, Level]:
        return await self._stock.levels(ITEMS)


async def in_redis(redis_url: str, url: str, rounds: int) -> Table:
    """Reservations per second of one item each, at fifty at once."""
    metadata = sa.MetaData()
    tables = StockTables(metadata)
    client = Redis.from_url(redis_url)
    await client.flushdb()
    async with (
        Database(_asyncpg(url)) as database,
        RedisStock(redis_url, FreeLedger(), name="free") as free,
        RedisStock(redis_url, FreeLedger(), name="empty") as empty,
    ):
        ledger = SqlLedger(database, tables)
        await database.transact(create_missing)
        await ledger.stock.transact(metadata.create_all)
        async with RedisStock(redis_url, ledger, name="kept") as kept:
            for stock, n in ((free, MOST), (kept, MOST), (empty, 0)):
                await stock.load(dict.fromkeys(ITEMS, n))
            bare = Bare(client)
            await bare.load()
            base = f"the same script, pipelines of {AT_ONCE}"
            cases = [
                Case(base, bare.pipelines),
                Case(f"the same script, each call alone, {AT_ONCE} at once", _rate(bare.reserve, RESERVATIONS), base),
                Case("RedisStock, a ledger that costs nothing", _rate(_of(free), RESERVATIONS), base, GOAL_REDIS),
                Case("RedisStock, sold out", _rate(_refused(empty), RESERVATIONS), base, GOAL_REDIS),
                Case("RedisStock, a ledger in PostgreSQL", _rate(_of(kept), RESERVATIONS // 4), base),
            ]
            table = await compare(f"Stock in Redis: reservations, {AT_ONCE} at once", "reservations/s", cases, rounds)
    await client.aclose()
    return table


async def in_postgresql(url: str, rounds: int) -> Table:
    """The same in a database: one item each, a transaction for each reservation."""
    metadata = sa.MetaData()
    tables = StockTables(metadata)
    engine = create_async_engine(_asyncpg(url), pool_size=AT_ONCE, max_overflow=0)
    pool = await asyncpg.create_pool(url, min_size=AT_ONCE, max_size=AT_ONCE)
    async with Database(engine) as database:
        stock = SqlStock(database, tables)
        await database.transact(create_missing)
        await stock.transact(metadata.create_all)
        await stock.load(dict.fromkeys(ITEMS, MOST))

        async def by_hand(name: str, item: str) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "INSERT INTO stock_reservation (id, state, lines, expires_at) VALUES ($1, 'held', $2, $3)",
                    name,
                    f'[["{item}",1]]',
                    _soon(),
                )
                await connection.execute(
                    "UPDATE stock_item SET available = available - 1, reserved = reserved + 1 "
                    "WHERE item = $1 AND available >= 1",
                    item,
                )

        async def within(name: str, item: str) -> None:
            async with database.session() as session, session.begin():
                await stock.within(session).reserve(name, {item: 1}, _soon())

        cases = []
        for at_once in (1, AT_ONCE):
            base = f"INSERT and UPDATE by hand, {at_once} at once"
            count = ON_POSTGRESQL if at_once > 1 else ON_POSTGRESQL // 4
            cases += [
                Case(base, _rate(by_hand, count, at_once)),
                Case(f"SqlStock, {at_once} at once", _rate(_of(stock), count, at_once), base, GOAL_SQL),
                Case(f"SqlStock in sessions, {at_once} at once", _rate(within, count, at_once), base),
            ]
        table = await compare("Stock in PostgreSQL: reservations", "reservations/s", cases, rounds)
    await pool.close()
    await engine.dispose()
    return table


class Bare:
    """The reserve script, with nothing around it."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._keys = Keys("bare").data

    async def load(self) -> None:
        state = {"generation": "1", "ready": "1", "server": "x", "number": "0"}
        items = {f"{part}:{item}": str(n) for item in ITEMS for part, n in (("a", MOST), ("r", 0), ("s", 0))}
        pipeline = self._client.pipeline(transaction=False)
        for key, fields in zip(self._keys, (state, items), strict=False):
            for field, value in fields.items():
                pipeline.hset(key, field, value)
        await pipeline.execute()
        await self._client.script_load(RESERVE.text)

    async def reserve(self, name: str, item: str) -> None:
        await self._client.evalsha(RESERVE.sha, 5, *self._keys, *self._arguments(name, item))

    async def pipelines(self) -> float:
        started = time.perf_counter()
        for first in range(0, RESERVATIONS, AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for n in range(first, first + AT_ONCE):
                pipeline.evalsha(RESERVE.sha, 5, *self._keys, *self._arguments(new_id(), ITEMS[n % len(ITEMS)]))
            await pipeline.execute()
        return RESERVATIONS / (time.perf_counter() - started)

    def _arguments(self, name: str, item: str) -> list[str]:
        return ["1", "0", "x", "0", name, f'[["{item}",1]]', instant(_soon()), "10000", "604800000"]


def _of(stock: Stock) -> Reserve:
    async def reserve(name: str, item: str) -> None:
        await stock.reserve(name, {item: 1}, _soon())

    return reserve


def _refused(stock: Stock) -> Reserve:
    async def reserve(name: str, item: str) -> None:
        try:
            await stock.reserve(name, {item: 1}, _soon())
        except OutOfStock:
            return
        raise AssertionError("there was nothing")

    return reserve


def _rate(reserve: Reserve, count: int, at_once: int = AT_ONCE) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        async def one(first: int) -> None:
            for n in range(first, count, at_once):
                await reserve(new_id(), ITEMS[n % len(ITEMS)])

        started = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(at_once)))
        return count / (time.perf_counter() - started)

    return run


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=15)


def _asyncpg(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+asyncpg")
