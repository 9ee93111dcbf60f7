"""What a burst looks like in production: a relay that was idle, an analysed table that was empty, one hot key."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from benchmarks.drain import FILL, MANY_KEYS, TABLE, NoOp, prepared, warm
from benchmarks.harness import Case, Table, compare
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.hooks import Hooks, on
from txpatterns.outbox import Relay
from txpatterns.runtime.moments import Idle
from txpatterns.transport import Publisher

MESSAGES = 100_000
LOOKS = 12
"""More than the server needs to choose a general plan for a statement, which is five."""

HALF, ONE = "CASE WHEN n % 2 = 0 THEN 7 ELSE n % 977 END", "7"


async def to_nothing(url: str, rounds: int) -> Table:
    """Messages per second into a sink that does nothing."""
    return await _bursts(url, NoOp(), "orders", "A burst to nothing", rounds)


async def to_kafka(url: str, broker: KafkaBroker, topic: str, rounds: int) -> Table:
    """Messages per second into a real Kafka."""
    return await _bursts(url, broker, topic, "A burst to Kafka", rounds)


async def _bursts(url: str, broker: Publisher, topic: str, title: str, rounds: int) -> Table:
    database, pool = await prepared(url)

    async def waiting(key: str, messages: int = MESSAGES) -> float:
        await _empty(pool)
        await _fill(pool, topic, key, messages)
        await pool.execute("VACUUM ANALYZE txp_outbox")
        started = time.perf_counter()
        await Relay(database, broker).run_once()
        return messages / (time.perf_counter() - started)

    async def after_idling() -> float:
        await _empty(pool)
        looks = _Looks()
        relay = Relay(database, broker, hooks=looks)
        run = asyncio.ensure_future(relay.run())
        await looks.many.wait()
        await _fill(pool, topic, MANY_KEYS, MESSAGES)
        started = time.perf_counter()
        await relay.drained()
        taken = time.perf_counter() - started
        relay.stop()
        await run
        return MESSAGES / taken

    many = "977 keys, all waiting when the relay starts"
    cases = [
        Case(many, lambda: waiting(MANY_KEYS)),
        Case("one key", lambda: waiting(ONE), many, 0.6),
        Case("one key, a fifth of the messages", lambda: waiting(ONE, MESSAGES // 5), many, 0.6),
        Case("one key has every second message", lambda: waiting(HALF), many, 0.6),
        Case("977 keys, into an empty table at which the relay idled", after_idling, many, 0.8),
    ]
    await warm(broker, topic)
    table = await compare(title, "messages/s", cases, rounds)
    table.notes.append(
        f"{MESSAGES:,} messages of 479 bytes. The table is vacuumed and analysed while it is empty, or behind the fill "
        "where all waits; the relay that idles has looked at it a dozen times."
    )
    await pool.close()
    await database.close()
    return table


class _Looks(Hooks):
    """Counts how often the relay has found nothing."""

    def __init__(self) -> None:
        self.many = asyncio.Event()
        self._left = LOOKS

    @on(Idle)
    def idle(self, _: Idle) -> None:
        self._left -= 1
        if self._left == 0:
            self.many.set()


async def _empty(pool: asyncpg.Pool) -> None:
    await pool.execute("TRUNCATE txp_outbox")
    await pool.execute("VACUUM ANALYZE txp_outbox")


async def _fill(pool: asyncpg.Pool, topic: str, key: str, messages: int) -> None:
    await pool.execute(FILL.format(table=TABLE, topic=topic, headers="{}", key=key, messages=messages))
