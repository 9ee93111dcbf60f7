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
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.harness import Case, Sample, Table, compare
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.hooks import Hooks
from txpatterns.messages import Message, new_id
from txpatterns.outbox import Relay
from txpatterns.telemetry.tracing import TracingHooks
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Publisher, Verdict

MESSAGES = 100_000

TABLE, REFERENCE = "txp_outbox", "reference"
"""Ours, and the one of the reference, which has a column and an index that ours would only pay for."""

FILL = """INSERT INTO {table}
    (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)
SELECT gen_random_uuid()::text, '{topic}', 'order.placed', key, key::int % 256,
       convert_to(repeat('x', 479), 'UTF8'), '{headers}', 'application/json', now()
FROM (SELECT n, ({key})::text AS key FROM generate_series(1, {messages}) AS n) AS keyed ORDER BY n"""
MANY_KEYS = "n % 977"
TRACED = '{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'


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

        return await _measured(pool, work, table=REFERENCE)

    async def ours() -> Sample:
        return await _ours(database, pool, NoOp())

    async def traced() -> Sample:
        return await _ours(database, pool, NoOp(), headers=TRACED, hooks=tracing())

    async def with_old_snapshot() -> Sample:
        async with pool.acquire() as held, held.transaction(isolation="repeatable_read"):
            await held.fetchval("SELECT pg_current_snapshot()::text")
            return await _ours(database, pool, NoOp())

    raw, select = (
        "bare: read ahead, delete by position, nothing else",
        "reference: select for update, update status, partial index",
    )
    ordered, free = "txoutbox, tuned, order kept", "txoutbox at its best: no order, rows deleted"
    cases = [
        Case(raw, bare),
        Case(select, reference, raw),
        Case(ordered, lambda: _peer(pool, keeps_order=True), select),
        Case(free, lambda: _peer(pool, keeps_order=False), select),
        Case("txpatterns", ours, select, 1.0, also={ordered: 2.5, free: None, raw: None}, most=_LIMITS),
        Case("txpatterns, traced: each message belongs to a trace", traced, "txpatterns"),
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
    producer = BareProducer(broker.settings.servers, topic)

    async def ours() -> Sample:
        return await _ours(database, pool, broker, topic)

    limit, relay = "produce in bulk, no database", "bare relay: read ahead, produce and flush 500, delete"
    least = f"{relay}, without headers and reports"
    cases = [
        Case(limit, producer.bulk),
        Case(least, lambda: _bare(pool, producer.least, topic), limit),
        Case(relay, lambda: _bare(pool, producer.reported, topic), limit),
        Case("txpatterns", ours, relay, 0.8, also={least: None, limit: None}, most=_LIMITS | {"CPU us/message": 20}),
    ]
    await warm(broker, topic)
    await producer.warm()
    table = await compare("Drain to Kafka", "messages/s", cases, rounds)
    table.notes.append(
        "CPU is that of this process, the driver's threads included. The bare relay sends the same five headers and "
        "asks for each delivery report; the least one sends no headers and asks only whether all have gone. Both "
        "delete by position, wait for each batch before the next, and know nothing of other relays, failures or leases."
    )
    await pool.close()
    await database.close()
    return table


class BareProducer:
    """The bare driver, as a relay would use it that does the least."""

    def __init__(self, servers: str, topic: str) -> None:
        config = {"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all", "linger.ms": 5}
        self._producer, self._topic, self._confirmed = Producer(config), topic, 0

    async def warm(self) -> None:
        """Connect, and learn the topic."""
        self._producer.produce(self._topic, b"{}", "key")
        await asyncio.to_thread(self._producer.flush)

    async def bulk(self) -> float:
        payload, started = b"x" * 479, time.perf_counter()
        for number in range(MESSAGES):
            self._producer.produce(self._topic, payload, str(number % 977))
            if number % 1000 == 0:
                self._producer.poll(0)
        await asyncio.to_thread(self._producer.flush)
        return MESSAGES / (time.perf_counter() - started)

    async def least(self, records: Sequence[Any]) -> None:
        """Send no headers, and ask only whether all have gone."""
        for record in records:
            self._producer.produce(self._topic, record["payload"], record["key"])
        await asyncio.to_thread(self._producer.flush)

    async def reported(self, records: Sequence[Any]) -> None:
        """Send the headers that name a message, and ask for the report of each."""
        before = self._confirmed
        for record in records:
            headers = {
                "message-id": record["message_id"],
                "message-type": record["type"],
                "content-type": record["content_type"],
                "occurred-at": record["occurred_at"].isoformat(),
                "ordering-key": record["key"],
            }
            self._producer.produce(
                self._topic, record["payload"], record["key"], on_delivery=self._report, headers=headers
            )
        await asyncio.to_thread(self._producer.flush)
        if self._confirmed - before != len(records):
            raise RuntimeError(f"{self._confirmed - before} of {len(records)} were confirmed")

    def _report(self, error: object, _: object) -> None:
        self._confirmed += error is None


_LIMITS = {"WAL bytes/message": 100, "row versions killed/message": 1}


async def warm(broker: Publisher, topic: str) -> None:
    """Let the broker open its connections and learn the topic before anything is measured."""
    messages = [Message(new_id(), topic, "warm.up", b"{}", f"key-{n}") for n in range(100)]
    async for told in broker.publish(messages):
        if any(outcome.verdict is not Verdict.CONFIRMED for outcome in told.values()):
            raise RuntimeError("the broker takes nothing")


def tracing() -> TracingHooks:
    """Telemetry that makes real spans and exports none."""
    return TracingHooks(TracerProvider())


async def prepared(url: str) -> tuple[Database, asyncpg.Pool]:
    """Open a database and make its tables; gives a pool of bare connections, too."""
    database = Database(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    await database.transact(create_missing)
    return database, await asyncpg.create_pool(url)


async def _fill(pool: asyncpg.Pool, topic: str, table: str, headers: str) -> None:
    await pool.execute(f"CREATE TABLE IF NOT EXISTS {REFERENCE} (LIKE {TABLE} INCLUDING ALL, status int)")
    await pool.execute(f"CREATE INDEX IF NOT EXISTS new_first ON {REFERENCE} (position) WHERE status IS NULL")
    await pool.execute(f"TRUNCATE {TABLE}, {REFERENCE}")
    await pool.execute(FILL.format(table=table, topic=topic, headers=headers, key=MANY_KEYS, messages=MESSAGES))
    await pool.execute(f"VACUUM ANALYZE {table}")


async def _measured(
    pool: asyncpg.Pool,
    work: Callable[[], Awaitable[object]],
    topic: str = "orders",
    *,
    table: str = TABLE,
    headers: str = "{}",
) -> Sample:
    """Drain a full table, and count what that cost the server and this process."""
    await _fill(pool, topic, table, headers)
    wal, killed = await _wal(pool), await _killed(pool, table)
    started, cpu = time.perf_counter(), time.process_time()
    await work()
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Sample(
        MESSAGES / taken,
        {
            "WAL bytes/message": (await _wal(pool) - wal) / MESSAGES,
            "row versions killed/message": await _killed_since(pool, table, killed) / MESSAGES,
            "CPU us/message": 1e6 * cpu / MESSAGES,
        },
    )


async def _wal(pool: asyncpg.Pool) -> float:
    return float(await pool.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


async def _killed(pool: asyncpg.Pool, table: str) -> int:
    """Count the dead row versions of this very table."""
    counted = "SELECT n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relid = $1::text::regclass"
    return int(await pool.fetchval(counted, table))


async def _killed_since(pool: asyncpg.Pool, table: str, before: int) -> int:
    """Wait a moment for the statistics, which each backend reports in its own time."""
    for _ in range(20):
        if await _killed(pool, table) - before >= MESSAGES:
            break
        await asyncio.sleep(0.1)
    return await _killed(pool, table) - before


async def _report(connection: asyncpg.Connection) -> None:
    """Let a backend tell its statistics at once; one that ends does so by itself."""
    await connection.execute("SELECT pg_stat_force_next_flush()")


async def _ours(
    database: Database,
    pool: asyncpg.Pool,
    broker: Publisher,
    topic: str = "orders",
    *,
    headers: str = "{}",
    hooks: Hooks | None = None,
) -> Sample:
    relay = Relay(database, broker, hooks=hooks)
    sample = await _measured(pool, relay.run_once, topic, headers=headers)
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
            f"SELECT * FROM {REFERENCE} WHERE status IS NULL ORDER BY position LIMIT 500 FOR UPDATE SKIP LOCKED"
        )
        ids = [record["position"] for record in records]
        await connection.execute(f"UPDATE {REFERENCE} SET status = 1 WHERE position = ANY($1)", ids)
    return bool(records)


async def _peer(pool: asyncpg.Pool, *, keeps_order: bool) -> float:
    """Run the peer with its own indexes on an analysed table, large batches and no timer for each message."""
    from txoutbox import Relay as PeerRelay
    from txoutbox import RelayConfig
    from txoutbox.adapters.postgres import PostgresStorage

    storage = PostgresStorage(pool, strict_ordering=keeps_order, delete_on_ack=not keeps_order)
    await pool.execute("DROP TABLE IF EXISTS outbox")
    await storage.create_schema()
    await pool.execute(
        "INSERT INTO outbox (topic, key, payload) SELECT 'orders', (n % 977)::text, "
        f"convert_to(repeat('x', 479), 'UTF8') FROM generate_series(1, {MESSAGES}) AS n"
    )
    await pool.execute("VACUUM ANALYZE outbox")
    sent = 0

    async def publish(message: object) -> None:
        nonlocal sent
        sent += 1

    config = RelayConfig(batch_size=1000, concurrency=1000, lease=timedelta(minutes=5), publish_timeout=None)
    relay = PeerRelay(storage, publish, config=config)
    started = time.perf_counter()
    while sent < MESSAGES:
        await relay.run_once()
    return MESSAGES / (time.perf_counter() - started)
