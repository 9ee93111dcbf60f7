"""How fast the relay empties the outbox, beside the least that any relay must do, and beside a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from confluent_kafka import Producer

from benchmarks.harness import Case, Run, Table, compare
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.messages import Message
from txpatterns.outbox import Relay
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Publisher

MESSAGES = 40_000

FILL = """INSERT INTO txp_outbox
    (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)
SELECT gen_random_uuid()::text, '{topic}', 'order.placed', (n % 977)::text, (n % 977) % 256,
       convert_to(repeat('x', 479), 'UTF8'), '{{}}', 'application/json', now()
FROM generate_series(1, {messages}) AS n"""


class NoOp:
    """Confirms at once."""

    capabilities = Capabilities(ordered_prefix=True)

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        yield dict.fromkeys((message.id for message in messages), CONFIRMED)


async def to_nothing(url: str, rounds: int) -> Table:
    """Messages per second into a sink that does nothing."""
    database, pool = await _prepared(url)

    async def bare() -> float:
        return await _bare(pool, _nothing)

    async def reference() -> float:
        await _fill(pool)
        started = time.perf_counter()
        async with pool.acquire() as connection:
            while await _select_and_update(connection):
                pass
        return MESSAGES / (time.perf_counter() - started)

    async def ours() -> float:
        return await _ours(database, pool, NoOp())

    cases = [
        Case("bare: read ahead, delete by id, nothing else", bare),
        Case("reference: select for update skip locked, update status", reference),
        Case("txpatterns", ours, "reference: select for update skip locked, update status", 1.0),
        Case("txoutbox, tuned", lambda: _peer(url, pool), "reference: select for update skip locked, update status"),
    ]
    table = await compare("Drain to nothing", "messages/s", cases, rounds)
    await pool.close()
    await database.close()
    return table


async def to_kafka(url: str, broker: KafkaBroker, topic: str, rounds: int) -> list[Table]:
    """Messages per second into a real Kafka, and the processor time of this process for each."""
    database, pool = await _prepared(url)
    producer = Producer(
        {"bootstrap.servers": broker.settings.servers, "enable.idempotence": True, "acks": "all", "linger.ms": 5}
    )

    async def produce(records: Sequence[Any]) -> None:
        for record in records:
            producer.produce(topic, record["payload"], record["key"])
        await asyncio.to_thread(producer.flush)

    async def bare() -> float:
        return await _bare(pool, produce, topic)

    async def ours() -> float:
        return await _ours(database, pool, broker, topic)

    name = "bare relay: read ahead, produce and flush 500, delete"
    tables = [
        await compare("Drain to Kafka", "messages/s", [Case(name, bare), Case("txpatterns", ours, name, 0.8)], rounds),
        await compare(
            "Drain to Kafka, processor time",
            "us/message",
            [Case(name, _cpu(bare)), Case("txpatterns", _cpu(ours), name)],
            rounds,
        ),
    ]
    tables[1].notes.append("Threads of the drivers and filling the table included. The goal is 20 us.")
    await pool.close()
    await database.close()
    return tables


def _cpu(run: Run) -> Run:
    async def measured() -> float:
        before = time.process_time()
        await run()
        return (time.process_time() - before) * 1_000_000 / MESSAGES

    return measured


async def _prepared(url: str) -> tuple[Database, asyncpg.Pool]:
    database = Database(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    await database.transact(create_missing)
    return database, await asyncpg.create_pool(url)


async def _fill(pool: asyncpg.Pool, topic: str = "orders") -> None:
    await pool.execute("TRUNCATE txp_outbox")
    await pool.execute(FILL.format(topic=topic, messages=MESSAGES))
    await pool.execute("ALTER TABLE txp_outbox ADD COLUMN IF NOT EXISTS status int")
    await pool.execute("VACUUM ANALYZE txp_outbox")


async def _ours(database: Database, pool: asyncpg.Pool, broker: Publisher, topic: str = "orders") -> float:
    await _fill(pool, topic)
    relay = Relay(database, broker)
    started = time.perf_counter()
    await relay.run_once()
    taken = time.perf_counter() - started
    left = await pool.fetchval("SELECT count(*) FROM txp_outbox")
    if left:
        raise RuntimeError(f"{left} messages were left")
    return MESSAGES / taken


async def _nothing(records: Sequence[Any]) -> None:
    return None


async def _bare(pool: asyncpg.Pool, publish: Any, topic: str = "orders") -> float:
    await _fill(pool, topic)
    started = time.perf_counter()
    async with pool.acquire() as reader, pool.acquire() as writer:
        query = "SELECT * FROM txp_outbox WHERE position > $1 ORDER BY position LIMIT 500"
        records = await reader.fetch(query, 0)
        while records:
            ahead = asyncio.ensure_future(reader.fetch(query, records[-1]["position"]))
            await publish(records)
            ids = [record["position"] for record in records]
            await writer.execute("DELETE FROM txp_outbox WHERE position = ANY($1)", ids)
            records = await ahead
    return MESSAGES / (time.perf_counter() - started)


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
