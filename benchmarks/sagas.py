"""What a saga costs beside the same transactions made by hand: steps, and calls to others."""

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
from benchmarks.workflow_peer import peer
from txpatterns import App, Database
from txpatterns.database.setup import create_missing
from txpatterns.sagas import Call, SagaContext, StepTransaction

MOST = 32
STEPS = 3
tables = sa.MetaData()
done = sa.Table(
    "done", tables, sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True), sa.Column("n", sa.Integer)
)
_RAW = """
CREATE TABLE IF NOT EXISTS raw_saga (id text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS raw_fact (saga text, n int, PRIMARY KEY (saga, n));
"""
_BARE, _HAND = "four commits, bare driver", "three session transactions by hand"
_STARTED = "a session transaction, three commits, bare driver"
_PEER = "DBOS: a workflow of three steps"
_numbers = count(time.time_ns())


async def step(tx: StepTransaction, n: int) -> int:
    await tx.session.execute(sa.insert(done).values(n=n))
    return n


async def call(call: Call, n: int) -> int:
    return n


async def steps(saga: SagaContext) -> int:
    return sum([await saga.step(step, n) for n in range(STEPS)])


async def calls(saga: SagaContext) -> int:
    return sum([await saga.call(call, n) for n in range(STEPS)])


async def workflows(url: str, concurrency: int, rounds: int) -> Table:
    """Workflows of three steps, and of three calls, from their start to their result."""
    engine = create_async_engine(_asyncpg(url), pool_size=MOST, max_overflow=MOST)
    app = App("bench", Database(engine), "memory://")
    for function in (steps, calls):
        app.saga()(function)
    await app.database.transact(create_missing)
    await app.database.transact(tables.create_all)
    plain = url.replace("postgresql+psycopg", "postgresql").replace("postgresql+asyncpg", "postgresql")
    pool = await asyncpg.create_pool(plain, min_size=MOST, max_size=MOST)
    async with pool.acquire() as connection:
        await connection.execute(_RAW)
    calls_goal, peer_goal = (0.6, 6.0) if concurrency == 1 else (1.0, 40.0)
    total = 60 if concurrency == 1 else 600
    try:
        async with app.running(relay=False, consume=False), peer(plain, STEPS, lambda: next(_numbers)) as workflow:
            of_calls, of_steps = (rate(total, concurrency, _saga(app, saga)) for saga in (calls, steps))
            cases = [
                Case(_BARE, rate(total, concurrency, lambda: _four_commits(pool))),
                Case(_STARTED, rate(total, concurrency, lambda: _three_commits(engine, pool)), _BARE),
                Case(_HAND, rate(total, concurrency, lambda: _by_hand(engine))),
                Case(_PEER, rate(total, concurrency, workflow)),
                Case("saga of three calls", of_calls, _BARE, calls_goal, {_STARTED: None, _PEER: peer_goal}),
                Case("saga of three steps", of_steps, _HAND, 0.8, {_PEER: None}),
            ]
            return await compare(f"Sagas, {concurrency} at a time", "workflows/s", cases, rounds)
    finally:
        await pool.close()
        await app.close()
        await engine.dispose()


def _saga(app: App, function: Any) -> Callable[[], Awaitable[object]]:
    async def one() -> object:
        async with app.session() as session, session.begin():
            handle = app.sagas.start(session, function, id=f"{function.__name__}-{next(_numbers)}")
        return await handle.result()

    return one


async def _four_commits(pool: Any) -> None:
    async with pool.acquire() as connection:
        id_ = str(next(_numbers))
        await connection.execute("INSERT INTO raw_saga VALUES ($1)", id_)
        for n in range(STEPS):
            await connection.execute("INSERT INTO raw_fact VALUES ($1, $2)", id_, n)


async def _three_commits(engine: AsyncEngine, pool: Any) -> None:
    """Do the least that a saga of calls does which a session starts: so much the start alone costs."""
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(sa.insert(done).values(n=0))
    async with pool.acquire() as connection:
        id_ = str(next(_numbers))
        for n in range(STEPS):
            await connection.execute("INSERT INTO raw_fact VALUES ($1, $2)", id_, n)


async def _by_hand(engine: AsyncEngine) -> None:
    for n in range(STEPS):
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(sa.insert(done).values(n=n))


def _asyncpg(url: str) -> str:
    return "postgresql+asyncpg" + url[url.index(":") :]
