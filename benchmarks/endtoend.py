"""All of the road: from rows of the outbox through a real Kafka to the transactions of a handler."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pydantic_core
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.harness import Case, Table, compare
from benchmarks.inbox import BATCH, Base, PackingSlip
from txpatterns import App, Event, Transaction
from txpatterns.database.setup import create_missing
from txpatterns.inbox import BatchTransaction
from txpatterns.messages import new_id
from txpatterns.outbox.writer import values_of

MESSAGES, WARM_UP, MOST = 4_000, 50, 32
KEYS = 977
Way = Callable[[], Any]

FILL = """INSERT INTO txp_outbox (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)
SELECT gen_random_uuid()::text, $1, $2, key, key::int % 256, $3, '{{}}', $4, now()
FROM (SELECT n, (n % {keys})::text AS key FROM generate_series(1, $5) AS n) AS keyed ORDER BY n"""


async def to_inbox(url: str, bootstrap: str, topic: str, rounds: int) -> Table:
    """Messages per second from the outbox into a handler's committed transactions."""
    pool = await asyncpg.create_pool(url)
    side = EndToEnd(url, f"kafka://{bootstrap}", topic, pool)
    await side.prepare()
    by_hand = "by hand: bare relay, consume(500), a transaction with a row of ids each, 32 at a time"
    cases = [
        Case(by_hand, lambda: side.rate(side.by_hand)),
        Case("txpatterns: relay, Kafka, consumer with its inbox", lambda: side.rate(side.ours), by_hand, 0.6),
    ]
    table = await compare("PostgreSQL to Kafka to inbox", "messages/s", cases, rounds)
    table.notes.append(
        f"{MESSAGES:,} messages, written at once while all is running and warm; until the last handler's transaction, "
        "which writes one ORM row, is committed. All in one process, so its single core is the limit."
    )
    await side.close()
    await pool.close()
    return table


async def in_the_database(url: str, rounds: int) -> Table:
    """Messages per second from the outbox into a handler's committed transactions, without any server but one."""
    pool = await asyncpg.create_pool(url)
    side = EndToEnd(url, "memory://", "packing", pool)
    await side.prepare()
    memory = "txpatterns: relay, memory:// in the same process, consumer with its inbox"
    cases = [
        Case(memory, lambda: side.rate(side.ours)),
        Case("txpatterns: relay, database://, consumer with its inbox", lambda: side.rate(side.in_tables), memory, 0.5),
        Case(f"the same, up to {BATCH} messages in a transaction", lambda: side.rate(side.in_batches), memory),
    ]
    table = await compare("PostgreSQL to its own queue to inbox", "messages/s", cases, rounds)
    table.notes.append(
        f"{MESSAGES:,} messages, written at once while all is running and warm; until the last handler's transaction, "
        "which writes one ORM row, is committed. All in one process, so its single core is the limit."
    )
    await side.close()
    await pool.close()
    return table


class Ordered(Event):
    order_id: str
    note: str = "n" * 300


class EndToEnd:
    """The tables, and two ways from one to the other."""

    def __init__(self, url: str, broker: str, topic: str, pool: asyncpg.Pool) -> None:
        class Placed(Ordered, topic=topic, type="order.placed", key="order_id"):
            pass

        self.event, self.topic, self.broker, self.pool = Placed, topic, broker, pool
        self.bootstrap = broker.partition("://")[2]
        self.address = sa.make_url(url).set(drivername="postgresql+asyncpg")
        self.engine = create_async_engine(self.address, pool_size=MOST, max_overflow=0)
        self.app = self._app(broker)
        self.row = values_of(self.app.outbox._message(Placed(order_id="7"), new_id(), {}))

    def _app(self, broker: str, *, batches: bool = False) -> App:
        app = App("packing", self.address.render_as_string(hide_password=False), broker)
        if batches:

            @app.on(self.event, batch=BATCH, name="pack")
            async def pack_all(events: Any, tx: BatchTransaction) -> None:
                tx.session.add_all(PackingSlip(id=new_id(), order_id=event.order_id) for event in events)

            return app

        @app.on(self.event)
        async def pack(event: Ordered, tx: Transaction) -> None:
            tx.session.add(PackingSlip(id=new_id(), order_id=event.order_id))

        return app

    async def prepare(self) -> None:
        await self.app.database.transact(create_missing)
        await self.app.database.transact(Base.metadata.create_all)
        await self.app.database.transact(_metadata.create_all)

    async def close(self) -> None:
        await self.engine.dispose()

    async def rate(self, way: Way) -> float:
        """Run one way, wait until it has handled a few, and time the rest."""
        await self.pool.execute("TRUNCATE txp_outbox, packing_slip")
        async with way() as wake:
            await self._handled(WARM_UP, wake)
            started = time.perf_counter()
            await self._handled(MESSAGES, wake)
            return MESSAGES / (time.perf_counter() - started)

    async def _handled(self, messages: int, wake: Callable[[], None]) -> None:
        row = self.row
        values = self.topic, row["type"], row["payload"], row["content_type"], messages
        wanted = messages + await self._count()
        await self.pool.execute(FILL.format(keys=KEYS), *values)
        wake()
        async with asyncio.timeout(120):
            while await self._count() < wanted:
                await asyncio.sleep(0.02)

    async def _count(self) -> int:
        return int(await self.pool.fetchval("SELECT count(*) FROM packing_slip"))

    @asynccontextmanager
    async def ours(self, broker: str | None = None, *, batches: bool = False) -> AsyncIterator[Callable[[], None]]:
        app = self._app(broker or self.broker, batches=batches)
        async with app.running():
            yield app.outbox.on_commit

    def in_tables(self) -> Any:
        return self.ours("database://")

    def in_batches(self) -> Any:
        return self.ours("database://", batches=True)

    @asynccontextmanager
    async def by_hand(self) -> AsyncIterator[Callable[[], None]]:
        woken, ending = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(self._relay(woken, ending)), asyncio.create_task(self._consume(ending))]
        yield woken.set
        ending.set()
        woken.set()
        await asyncio.gather(*tasks)

    async def _relay(self, woken: asyncio.Event, ending: asyncio.Event) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "acks": "all"})
        while not ending.is_set():
            await woken.wait()
            woken.clear()
            while rows := await self.pool.fetch("SELECT * FROM txp_outbox ORDER BY position LIMIT 500"):
                for row in rows:
                    headers = {"message-id": row["message_id"], "message-type": row["type"]}
                    producer.produce(self.topic, row["payload"], row["key"], headers=headers)
                await asyncio.to_thread(producer.flush)
                done = [row["position"] for row in rows]
                await self.pool.execute("DELETE FROM txp_outbox WHERE position = ANY($1)", done)

    async def _consume(self, ending: asyncio.Event) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "by-hand",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 10,
            }
        )
        consumer.subscribe([self.topic])
        places = asyncio.Semaphore(MOST)
        while not ending.is_set():
            lanes: dict[bytes | None, list[Any]] = defaultdict(list)
            for record in await asyncio.to_thread(consumer.consume, 500, 0.05):
                lanes[record.key()].append(record)
            await asyncio.gather(*(self._in_order(places, records) for records in lanes.values()))
            if lanes:
                consumer.commit(asynchronous=True)
        await asyncio.to_thread(consumer.close)

    async def _in_order(self, places: asyncio.Semaphore, records: list[Any]) -> None:
        async with places:
            for record in records:
                event = self.event.model_validate(_payload_of(record.value()))
                message_id = dict(record.headers())["message-id"].decode()
                async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                    new: Any = await session.execute(_claim, {"id": message_id})
                    if new.rowcount:
                        session.add(PackingSlip(id=new_id(), order_id=event.order_id))


def _payload_of(value: bytes) -> Any:
    return pydantic_core.from_json(value)["payload"]


_metadata = sa.MetaData()
_seen = sa.Table("seen", _metadata, sa.Column("id", sa.String(64), primary_key=True))
_claim = insert(_seen).on_conflict_do_nothing()
