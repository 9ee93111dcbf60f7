"""What the wake-up costs those who write, when many of them commit at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from benchmarks.harness import Case, Table, compare
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.database.wakeup import CHANNEL, Notifier
from txpatterns.messages import Event
from txpatterns.outbox import Outbox

WRITERS = 64
TRANSACTIONS = 2000


class Ticked(Event, topic="ticks", type="tick", key="name"):
    name: str
    note: str = "n" * 300


async def writers(url: str, rounds: int) -> Table:
    """Transactions per second of 64 writers, with the wake-up after the commit, without, and inside."""
    engine = create_async_engine(sa.make_url(url).set(drivername="postgresql+asyncpg"), pool_size=WRITERS)
    database, notifier = Database(engine), Notifier(engine)
    await database.transact(create_missing)

    async def nothing(_: AsyncConnection) -> None:
        return None

    async def inside(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql(f"NOTIFY {CHANNEL}")

    def rate(on_commit: Callable[[], None] | None, last: Callable[[AsyncConnection], object]) -> Callable[[], object]:
        outbox = Outbox(database, on_commit=on_commit)

        async def transaction(number: int) -> None:
            async with engine.begin() as connection:
                await connection.exec_driver_sql("SELECT 1")
                outbox.add(connection, Ticked(name=str(number)))
                await last(connection)

        async def run() -> float:
            numbers = iter(range(TRANSACTIONS))

            async def writer() -> None:
                for number in numbers:
                    await transaction(number)

            await asyncio.gather(*(transaction(number) for number in range(WRITERS)))  # opens the connections
            started = time.perf_counter()
            await asyncio.gather(*(writer() for _ in range(WRITERS)))
            taken = time.perf_counter() - started
            async with engine.begin() as connection:
                await connection.exec_driver_sql("TRUNCATE txp_outbox")
            return TRANSACTIONS / taken

        return run

    base = "no wake-up"
    cases = [
        Case(base, rate(None, nothing)),
        Case("wake-up after the commit, gathered (the default)", rate(notifier.notify, nothing), base, 0.95),
        Case("NOTIFY inside each transaction", rate(None, inside), base),
    ]
    table = await compare(f"{WRITERS} writers and the wake-up, asyncpg", "transactions/s", cases, rounds)
    await asyncio.to_thread(notifier.close)
    await engine.dispose()
    await database.close()
    return table
