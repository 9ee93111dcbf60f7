"""What a TCC transaction of two local participants costs beside the same three transactions made by hand.

Session transactions are what an application would write without us; the bare driver's are the anchor of the field, for
coordinators that are measured against it elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.harness import Case, Table, compare
from benchmarks.rates import rate
from txpatterns import App, Database
from txpatterns.database.setup import create_missing
from txpatterns.tcc import BranchTransaction

MOST = 32
PIECES = 2000
"""So many that two buyers seldom want the same at once."""
tables = sa.MetaData()
piece = sa.Table(
    "bench_piece",
    tables,
    sa.Column("sku", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("available", sa.Integer, nullable=False),
    sa.Column("reserved", sa.Integer, nullable=False),
    sa.Column("sold", sa.Integer, nullable=False),
)
held = sa.Table(
    "bench_held",
    tables,
    sa.Column("order", sa.String(40), primary_key=True),
    sa.Column("sku", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(20), nullable=False),
)
_DRIVER = "three transactions by asyncpg, with a row for each reservation"
_BARE, _HAND = "three session transactions, no state", "the same with a row for each reservation"
_numbers = count(time.time_ns())


def _moved(sku: int, source: str, to: str) -> sa.Update:
    columns = piece.c
    values = {source: columns[source] - 1, to: columns[to] + 1}
    return sa.update(piece).where(columns.sku == sku).values(values)


async def transactions(url: str, concurrency: int, rounds: int) -> Table:
    """Transactions of two participants, from their begin to their confirm."""
    pool = await asyncpg.create_pool("postgresql" + url[url.index(":") :], min_size=concurrency, max_size=MOST)
    engine = create_async_engine("postgresql+asyncpg" + url[url.index(":") :], pool_size=MOST, max_overflow=MOST)
    app = App("bench", Database(engine), "memory://")
    participant = _stock(app)
    await app.database.transact(create_missing)
    await app.database.transact(_filled)
    total = 60 if concurrency == 1 else 600
    try:
        async with app.running(relay=False, consume=False):
            cases = [
                Case(_BARE, rate(total, concurrency, lambda: _by_hand(engine, notes=False))),
                Case(_HAND, rate(total, concurrency, lambda: _by_hand(engine, notes=True)), _BARE),
                Case(_DRIVER, rate(total, concurrency, lambda: _by_driver(pool)), _BARE),
                Case(
                    "TCC of two local participants",
                    rate(total, concurrency, _tcc(app, participant)),
                    _HAND,
                    0.75,
                    also={_DRIVER: 0.5 if concurrency == 1 else 0.4},
                ),
            ]
            table = await compare(f"TCC, {concurrency} at a time", "transactions/s", cases, rounds)
        table.notes.append(_ELSEWHERE)
        return table
    finally:
        await pool.close()
        await app.close()
        await engine.dispose()


_ELSEWHERE = (
    "For comparison, not of this run: DTM 1.19, a coordinator in Go, with two participants over HTTP and its own state "
    "in PostgreSQL 15, reached 0.08 (1 at a time) and 0.09 (32) of three bare transactions by asyncpg, on two cores, "
    "each the median of rounds that ran in turn. Its participants are other processes, so that the HTTP calls alone, "
    "made by aiohttp, left 0.28 and 0.24."
)
"""Measured once for this project, with the same way of comparing; DTM is none of the tools of these benchmarks."""


def _filled(connection: sa.Connection) -> None:
    tables.drop_all(connection)
    tables.create_all(connection)
    rows = [{"sku": sku, "available": 1_000_000, "reserved": 0, "sold": 0} for sku in range(PIECES)]
    connection.execute(sa.insert(piece), rows)


def _stock(app: App) -> Any:
    @app.tcc.participant("stock")
    async def stock(tx: BranchTransaction, sku: int) -> None:
        await tx.session.execute(_moved(sku, "available", "reserved"))

    @stock.confirm
    async def sell(tx: BranchTransaction, sku: int) -> None:
        await tx.session.execute(_moved(sku, "reserved", "sold"))

    @stock.cancel
    async def release(tx: BranchTransaction, sku: int) -> None:
        await tx.session.execute(_moved(sku, "reserved", "available"))

    return stock


def _tcc(app: App, participant: Any) -> Callable[[], Awaitable[object]]:
    async def one() -> None:
        number = next(_numbers)
        async with app.tcc.transaction(f"order-{number}") as tcc:
            for sku in _skus(number):
                await tcc.try_(participant, sku)

    return one


async def _by_hand(engine: AsyncEngine, *, notes: bool) -> None:
    number = next(_numbers)
    for sku in _skus(number):
        async with AsyncSession(engine) as session, session.begin():
            if notes:
                await session.execute(sa.insert(held).values(order=f"order-{number}", sku=sku, state="held"))
            await session.execute(_moved(sku, "available", "reserved"))
    async with AsyncSession(engine) as session, session.begin():
        if notes:
            await session.execute(sa.update(held).where(held.c.order == f"order-{number}").values(state="sold"))
        for sku in _skus(number):
            await session.execute(_moved(sku, "reserved", "sold"))


async def _by_driver(pool: Any) -> None:
    number = next(_numbers)
    name, moves = f"order-{number}", "UPDATE bench_piece SET {0} = {0} - 1, {1} = {1} + 1 WHERE sku = $1"
    for sku in _skus(number):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO bench_held VALUES ($1, $2, 'held')", name, sku)
            await connection.execute(moves.format("available", "reserved"), sku)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE bench_held SET state = 'sold' WHERE \"order\" = $1", name)
        for sku in _skus(number):
            await connection.execute(moves.format("reserved", "sold"), sku)


def _skus(number: int) -> list[int]:
    """Give two different pieces, in one order, so that no two transactions wait for each other crosswise."""
    first = number % (PIECES - 1)
    return [first, first + 1]
