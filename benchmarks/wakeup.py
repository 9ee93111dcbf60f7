"""What the wake-up costs those who write, when many of them commit at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg
import sqlalchemy as sa

from benchmarks.harness import Case, Table, compare
from txpatterns.coordination.wakeup import CHANNEL, Notifier
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.messages import new_id

WRITERS = 64
TRANSACTIONS = 4000

INSERT = """INSERT INTO txp_outbox
    (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)
VALUES ($1, 'ticks', 'tick', 'k', 7, $2, '{}', 'application/json', now())"""


async def writers(url: str, rounds: int) -> Table:
    """Transactions per second of 64 writers on the bare driver, with the wake-up after the commit, without, inside."""
    database = Database(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    await database.transact(create_missing)
    pool = await asyncpg.create_pool(url, min_size=WRITERS, max_size=WRITERS)
    notifier = Notifier(database.engine)

    def rate(committed: Callable[[], None], *, inside: bool = False) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            numbers = iter(range(TRANSACTIONS))

            async def writer() -> None:
                async with pool.acquire() as connection:
                    for _ in numbers:
                        async with connection.transaction():
                            await connection.execute(INSERT, new_id(), b"x" * 479)
                            if inside:
                                await connection.execute(f"NOTIFY {CHANNEL}")
                        committed()

            await pool.execute("TRUNCATE txp_outbox")
            started = time.perf_counter()
            await asyncio.gather(*(writer() for _ in range(WRITERS)))
            return TRANSACTIONS / (time.perf_counter() - started)

        return run

    base = "no wake-up"
    cases = [
        Case(base, rate(lambda: None)),
        Case("wake-up after the commit, gathered (the default)", rate(notifier.notify), base, 0.95),
        Case("NOTIFY inside each transaction", rate(lambda: None, inside=True), base),
    ]
    table = await compare(f"{WRITERS} writers and the wake-up, bare asyncpg", "transactions/s", cases, rounds)
    await asyncio.to_thread(notifier.close)
    await pool.close()
    await database.close()
    return table
