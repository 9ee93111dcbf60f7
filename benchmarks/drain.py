"""How fast the relay empties the outbox, beside the least that any relay must do, and beside a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.harness import Case, Sample, Table, compare
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.messages import Message
from txpatterns.outbox import Relay
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Publisher

MESSAGES = 40_000

FILL = """INSERT INTO txp_outbox
    (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)
SELECT gen_random_uuid()::text, '{topic}', 'order.placed', key, key::int % 256,
       convert_to(repeat('x', 479), 'UTF8'), '{{}}', 'application/json', now()
FROM (SELECT n, ({key})::text AS key FROM generate_series(1, {messages}) AS n) AS keyed ORDER BY n"""
MANY_KEYS = "n % 977"


class NoOp:
    """Confirms at once."""

    capabilities = Capabilities(ordered_prefix=True)

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        yield dict.fromkeys((message.id for message in messages), CONFIRMED)


async def to_nothing(url: str, rounds: int) -> Table:
    """Messages per second into a sink that does nothing."""
    database, pool = await prepared(url)

    async def bare() -> Sample:
        return await _bare(pool, _nothing)

    async def reference() -> Sample:
        async def work() -> None:
            async with pool.acquire() as connection:
                while await _select_and_update(connection):
                    pass
                await _report(connection)

        return await _measured(pool, work)

    async def ours() -> Sample:
        return await _ours(database, pool, NoOp())

    async def with_old_snapshot() -> Sample:
        async with pool.acquire() as held, held.transaction(isolation="repeatable_read"):
            await held.fetchval("SELECT pg_current_snapshot()::text")
            return await _ours(database, pool, NoOp())

    raw, select = "bare: read ahead, delete by position, nothing else", "reference: select for update, update status"
    cases = [
        Case(raw, bare),
        Case(select, reference, raw),
        Case("txoutbox, tuned", lambda: _peer(url, pool), select),
        Case("txpatterns", ours, select, 1.0, also={"txoutbox, tuned": 2.5, raw: None}, most=_LIMITS),
        Case("txpatterns while an old snapshot is held", with_old_snapshot, "txpatterns", 0.8),
    ]
    table = await compare("Drain to nothing", "messages/s", cases, rounds)
    table.notes.append(
        f"{MESSAGES:,} waiting messages of 479 bytes; a start and a stop of the relay are in its time. WAL and row "
        "versions are those of the drain, counted by the server."
    )
    await pool.close()
    await database.close()
    return table


async def to_kafka(url: str, broker: KafkaBroker, topic: str, rounds: int) -> Table:
    """Messages per second into a real Kafka."""
    database, pool = await prepared(url)
    producer = Producer(
        {"bootstrap.servers": broker.settings.servers, "enable.idempotence": True, "acks": "all", "linger.ms": 5}
    )

    async def produce(records: Sequence[Any]) -> None:
        for record in records:
            producer.produce(topic, record["payload"], record["key"])
        await asyncio.to_thread(producer.flush)

    async def bulk() -> float:
        payload, started = b"x" * 479, time.perf_counter()
        for number in range(MESSAGES):
            producer.produce(topic, payload, str(number % 977))
            if number % 1000 == 0:
                producer.poll(0)
        await asyncio.to_thread(producer.flush)
        return MESSAGES / (time.perf_counter() - started)

    async def bare() -> Sample:
        return await _bare(pool, produce, topic)

    async def ours() -> Sample:
        return await _ours(database, pool, broker, topic)

    limit, relay = "produce in bulk, no database", "bare relay: read ahead, produce and flush 500, delete"
    cases = [
        Case(limit, bulk),
        Case(relay, bare, limit),
        Case("txpatterns", ours, relay, 0.8, also={limit: None}, most=_LIMITS | {"CPU us/message": 20}),
    ]
    table = await compare("Drain to Kafka", "messages/s", cases, rounds)
    table.notes.append(
        "CPU is that of this process, the driver's threads included. The bare relay sends no headers and asks only "
        "whether all have gone; here each message carries its id, type, key and time, and is confirmed by itself: that "
        "costs the driver and Python several times as much as the bare produce."
    )
    await pool.close()
    await database.close()
    return table


_LIMITS = {"WAL bytes/message": 100, "row versions killed/message": 1}


async def prepared(url: str) -> tuple[Database, asyncpg.Pool]:
    """Open a database and make its tables; gives a pool of bare connections, too."""
    database = Database(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    await database.transact(create_missing)
    return database, await asyncpg.create_pool(url)


async def _fill(pool: asyncpg.Pool, topic: str = "orders") -> None:
    await pool.execute("TRUNCATE txp_outbox")
    await pool.execute(FILL.format(topic=topic, key=MANY_KEYS, messages=MESSAGES))
    await pool.execute("ALTER TABLE txp_outbox ADD COLUMN IF NOT EXISTS status int")
    await pool.execute("VACUUM ANALYZE txp_outbox")


async def _measured(pool: asyncpg.Pool, work: Callable[[], Awaitable[None]], topic: str = "orders") -> Sample:
    """Drain a full table, and count what that cost the server and this process."""
    await _fill(pool, topic)
    wal, killed = await _wal(pool), await _killed(pool)
    started, cpu = time.perf_counter(), time.process_time()
    await work()
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Sample(
        MESSAGES / taken,
        {
            "WAL bytes/message": (await _wal(pool) - wal) / MESSAGES,
            "row versions killed/message": await _killed_since(pool, killed) / MESSAGES,
            "CPU us/message": 1e6 * cpu / MESSAGES,
        },
    )


async def _wal(pool: asyncpg.Pool) -> float:
    return float(await pool.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


async def _killed(pool: asyncpg.Pool) -> int:
    return int(
        await pool.fetchval("SELECT sum(n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE relname LIKE '%outbox%'")
    )


async def _killed_since(pool: asyncpg.Pool, before: int) -> int:
    """Wait a moment for the statistics, which each backend reports in its own time."""
    for _ in range(20):
        if await _killed(pool) - before >= MESSAGES:
            break
        await asyncio.sleep(0.1)
    return await _killed(pool) - before


async def _report(connection: asyncpg.Connection) -> None:
    """Let a backend tell its statistics at once; one that ends does so by itself."""
    await connection.execute("SELECT pg_stat_force_next_flush()")


async def _ours(database: Database, pool: asyncpg.Pool, broker: Publisher, topic: str = "orders") -> Sample:
    sample = await _measured(pool, Relay(database, broker).run_once, topic)
    left = await pool.fetchval("SELECT count(*) FROM txp_outbox")
    if left:
        raise RuntimeError(f"{left} messages were left")
    return sample


async def _nothing(records: Sequence[Any]) -> None:
    return None


async def _bare(pool: asyncpg.Pool, publish: Any, topic: str = "orders") -> Sample:
    async def work() -> None:
        async with pool.acquire() as reader, pool.acquire() as writer:
            query = "SELECT * FROM txp_outbox WHERE position > $1 ORDER BY position LIMIT 500"
            records = await reader.fetch(query, 0)
            while records:
                ahead = asyncio.ensure_future(reader.fetch(query, records[-1]["position"]))
                await publish(records)
                ids = [record["position"] for record in records]
                await writer.execute("DELETE FROM txp_outbox WHERE position = ANY($1)", ids)
                records = await ahead
            await _report(writer)

    return await _measured(pool, work, topic)


async def _select_and_update(connection: asyncpg.Connection) -> bool:
    async with connection.transaction():
        records = await connection.fetch(
            "SELECT * FROM txp_outbox WHERE status IS NULL ORDER BY position LIMIT 500 FOR UPDATE SKIP LOCKED"
        )
        ids = [record["position"] for record in records]
        await connection.execute("UPDATE txp_outbox SET status = 1 WHERE position = ANY($1)", ids)
    return bool(records)


async def _peer(url: str, pool: asyncpg.Pool) -> float:
    from txoutbox import Relay as PeerRelay
    from txoutbox import RelayConfig
    from txoutbox.adapters.postgres import PostgresStorage

    storage = PostgresStorage(pool)
    await pool.execute("DROP TABLE IF EXISTS outbox")
    await storage.create_schema()
    async with pool.acquire() as connection, connection.transaction():
        for number in range(MESSAGES // 4):
            await storage.insert(connection, "orders", "x" * 479, key=str(number % 977))
    sent = 0

    async def publish(message: object) -> None:
        nonlocal sent
        sent += 1

    relay = PeerRelay(
        storage, publish, config=RelayConfig(batch_size=1000, concurrency=1000, lease=timedelta(minutes=5))
    )
    started = time.perf_counter()
    while sent < MESSAGES // 4:
        await relay.run_once()
    return (MESSAGES // 4) / (time.perf_counter() - started)
