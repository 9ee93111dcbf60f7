"""What the inbox costs a handler's transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.harness import Case, Table, compare
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.inbox import BatchTransaction, Consumer, ConsumerSettings, Transaction
from txpatterns.messages import Event, Message, describe, new_id
from txpatterns.serialization import EventRegistry

MESSAGES = 256
MOST = 32
GOAL = 0.75
BURST = 2000
BATCH = 100


class Base(DeclarativeBase):
    pass


class PackingSlip(Base):
    __tablename__ = "packing_slip"
    id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str
    note: str = "n" * 300


@dataclass(frozen=True, slots=True)
class Given:
    """A delivery of a broker that costs nothing."""

    message: Message
    redelivered: bool = False

    async def ack(self) -> None:
        return None


class NoBroker:
    """The consumer is driven from here."""

    @asynccontextmanager
    async def subscribe(self, topics: Any, *, group: str) -> Any:
        yield


async def handler(url: str, rounds: int) -> Table:
    """Messages per second with one ORM row each, beside the same handler called without a consumer."""
    engine = create_async_engine(_asyncpg(url), pool_size=MOST, max_overflow=0)
    database, registry = Database(engine), EventRegistry()
    await database.transact(create_missing)
    await database.transact(Base.metadata.create_all)
    consumer = Consumer(database, NoBroker(), registry, group="bench", settings=ConsumerSettings(concurrency=MOST))

    async def pack(event: OrderPlaced, tx: Transaction) -> None:
        tx.session.add(PackingSlip(id=new_id(), order_id=event.order_id))

    consumer.on(OrderPlaced)(pack)
    consumer.check()
    deliveries = consumer._consuming.deliveries

    async def plain() -> None:
        event = _placed(registry, _message(registry))
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            session.add(PackingSlip(id=new_id(), order_id=event.order_id))

    async def with_orm_row() -> None:
        message = _message(registry)
        event = _placed(registry, message)
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            await session.execute(sa.insert(_seen).values(id=message.id))
            session.add(PackingSlip(id=new_id(), order_id=event.order_id))

    async def with_inbox() -> None:
        await deliveries.handle(Given(_message(registry)))

    await database.transact(_metadata.create_all)
    cases = []
    for concurrency in (1, MOST):
        base = f"the handler alone, {concurrency} at a time"
        cases += [
            Case(base, _rate(plain, concurrency)),
            Case(f"a row of ids by hand, {concurrency} at a time", _rate(with_orm_row, concurrency), base),
            Case(f"through the consumer, {concurrency} at a time", _rate(with_inbox, concurrency), base, GOAL),
        ]
    table = await compare("Inbox: one handler's transaction", "messages/s", cases, rounds)
    table.notes.append(
        "All decode the message. The consumer also takes its fingerprint, looks whether the key waits or the message "
        "is dead, and keeps the books for hooks and retries."
    )
    await database.close()
    await engine.dispose()
    return table


async def batches(url: str, rounds: int) -> Table:
    """Messages per second with one ORM row each, one at a time and in batches, as they come from a broker."""
    engine = create_async_engine(_asyncpg(url), pool_size=MOST, max_overflow=0)
    database, registry = Database(engine), EventRegistry()
    await database.transact(create_missing)
    await database.transact(Base.metadata.create_all)

    def consumer(group: str) -> Consumer:
        settings = ConsumerSettings(concurrency=MOST, max_in_flight=BURST)
        return Consumer(database, NoBroker(), registry, group=group, settings=settings)

    single, several = consumer("single"), consumer("several")

    @single.on(OrderPlaced)
    async def pack(event: OrderPlaced, tx: Transaction) -> None:
        tx.session.add(PackingSlip(id=new_id(), order_id=event.order_id))

    @several.on(OrderPlaced, batch=BATCH)
    async def pack_all(events: list[OrderPlaced], tx: BatchTransaction) -> None:
        tx.session.add_all([PackingSlip(id=new_id(), order_id=event.order_id) for event in events])

    async def by_hand() -> None:
        events = [_placed(registry, _message(registry)) for _ in range(BATCH)]
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            session.add_all([PackingSlip(id=new_id(), order_id=event.order_id) for event in events])

    async def hands() -> float:
        started = time.perf_counter()
        for _ in range(BURST // BATCH):
            await by_hand()
        return BURST // BATCH * BATCH / (time.perf_counter() - started)

    base = f"one by one, {MOST} at a time"
    cases = [
        Case(base, _through(single, registry, BURST // 4)),
        Case(f"in batches of {BATCH}", _through(several, registry, BURST), base, 5.0),
        Case(f"the same transactions without a consumer, {BATCH} rows each", hands, base),
    ]
    table = await compare("Inbox: handlers of batches", "messages/s", cases, rounds)
    await database.close()
    await engine.dispose()
    return table


def _through(consumer: Consumer, registry: EventRegistry, count: int) -> Callable[[], Awaitable[float]]:
    """Put messages of as many keys into the consumer's lanes, as the intake does, until all are handled."""
    consumer.check()
    lanes = consumer._consuming.lanes

    async def run() -> float:
        started = time.perf_counter()
        for _ in range(count):
            await lanes.put(Given(_message(registry)))
        await lanes.drained()
        return count / (time.perf_counter() - started)

    return run


_metadata = sa.MetaData()
_seen = sa.Table("seen", _metadata, sa.Column("id", sa.String(36), primary_key=True))


def _asyncpg(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+asyncpg")


def _message(registry: EventRegistry) -> Message:
    spec, id_, now = describe(OrderPlaced), new_id(), datetime.now(UTC)
    event = OrderPlaced(order_id=id_)
    encoded = registry.codec.encode(event, spec, id_, now)
    return Message(id_, spec.topic, spec.type, encoded.payload, id_, dict(encoded.headers), encoded.content_type, now)


def _placed(registry: EventRegistry, message: Message) -> OrderPlaced:
    event = registry.read(message)
    assert isinstance(event, OrderPlaced)
    return event


def _rate(work: Callable[[], Awaitable[None]], concurrency: int) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        share = MESSAGES // concurrency

        async def one() -> None:
            for _ in range(share):
                await work()

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        return share * concurrency / (time.perf_counter() - started)

    return run
