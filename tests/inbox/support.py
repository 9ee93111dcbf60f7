"""What the tests of the inbox share: two events, a table of effects, a broker in memory, a listener to wait on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.deadletters.moments import Dead
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.hooks import Hooks, on
from txpatterns.inbox import Consumer, ConsumerSettings, inbox_table, inbox_waiting_table
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed
from txpatterns.messages import Event, Message, describe, new_id
from txpatterns.outbox import Outbox
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.runtime.moments import Idle
from txpatterns.serialization import EventRegistry

TIMEOUT = 120.0
LONG = 500.0

metadata = sa.MetaData()
effects = sa.Table(
    "effect",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("consumer", sa.String(50), nullable=False),
    sa.Column("key", sa.String(50)),
    sa.Column("number", sa.Integer, nullable=False),
)


class Noted(Event, topic="notes", type="note.added", key="book"):
    book: str
    number: int


class Echoed(Event, topic="echoes", type="note.echoed", key="book"):
    book: str
    number: int


class Loose(Event, topic="notes", type="note.loose"):
    number: int


def quick(attempts: int = 7, *, on_failure: OnFailure = OnFailure.HOLD, wait: float = 0.001) -> FailurePolicies:
    ladder = RetryLadder((timedelta(seconds=wait),) * (attempts - 1))
    return FailurePolicies(FailurePolicy(on_failure, ladder))


@dataclass(eq=False)
class FakeDelivery:
    message: Message
    redelivered: bool
    broker: FakeBroker

    async def ack(self) -> None:
        self.broker.settle(self)


@dataclass(eq=False)
class FakeBroker:
    """Gives out what is put in, one batch for each call; keeps what is acknowledged."""

    acked: list[Message] = field(default_factory=list)
    open: set[FakeDelivery] = field(default_factory=set)
    on_ack: Callable[[Message], None] = lambda _message: None

    def __post_init__(self) -> None:
        self._batches: asyncio.Queue[list[FakeDelivery]] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._settled = asyncio.Event()

    def put(self, *messages: Message, redelivered: bool = False) -> None:
        batch = [FakeDelivery(message, redelivered, self) for message in messages]
        self.open.update(batch)
        self._batches.put_nowait(batch)

    def settle(self, delivery: FakeDelivery) -> None:
        self.on_ack(delivery.message)
        self.open.discard(delivery)
        self.acked.append(delivery.message)
        self._settled.set()

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[str], *, group: str) -> AsyncIterator[AsyncIterator[list[FakeDelivery]]]:
        yield self._give()

    async def _give(self) -> AsyncIterator[list[FakeDelivery]]:
        while True:
            yield await self._batches.get()

    async def all_acked(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            while self.open:
                self._settled.clear()
                await self._settled.wait()


class Told(Hooks):
    """Counts what the runtime told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._news = asyncio.Event()

    @on(Handled)
    def handled(self, _: Handled) -> None:
        self._count("handled")

    @on(DuplicatePrevented)
    def prevented(self, _: DuplicatePrevented) -> None:
        self._count("duplicate")

    @on(HandlerFailed)
    def failed(self, moment: HandlerFailed) -> None:
        self.errors.append(str(moment.error))
        self._count("failed")

    @on(Dead)
    def given_up(self, _: Dead) -> None:
        self._count("dead")

    @on(Idle)
    def idle(self, _: Idle) -> None:
        self._count("idle")

    def _count(self, moment: str) -> None:
        self.counts[moment] += 1
        self._news.set()

    async def until(self, condition: Callable[[Counter[str]], bool], within: float = TIMEOUT) -> None:
        async with asyncio.timeout(within):
            while not condition(self.counts):
                self._news.clear()
                await self._news.wait()


class World:
    """A database with tables, a broker, and consumers that tests make."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broker = FakeBroker()
        self.told = Told()
        self.registry = EventRegistry()
        self.outbox = Outbox(database, self.registry)

    def consumer(self, group: str = "app", **settings: Any) -> Consumer:
        settings.setdefault("retry_interval", timedelta(milliseconds=10))
        return Consumer(
            self.database,
            self.broker,
            self.registry,
            group=group,
            emitter=self.outbox,
            hooks=self.told,
            settings=ConsumerSettings(**settings),
        )

    def message(self, event: Event, message_id: str | None = None) -> Message:
        spec = describe(type(event))
        id_, now = message_id or new_id(), datetime.now(UTC)
        encoded = self.registry.codec.encode(event, spec, id_, datetime(2026, 1, 1, tzinfo=UTC))
        headers = dict(encoded.headers)
        return Message(id_, spec.topic, spec.type, encoded.payload, event.key_of(), headers, encoded.content_type, now)

    def put(self, *events: Event, redelivered: bool = False) -> list[Message]:
        messages = [self.message(event) for event in events]
        self.broker.put(*messages, redelivered=redelivered)
        return messages

    async def rows(self, table: sa.Table) -> list[sa.Row[tuple[object, ...]]]:
        query = sa.select(table).order_by(*table.primary_key.columns)
        return await self.database.read(lambda connection: list(connection.execute(query)))

    async def effects(self) -> list[tuple[str | None, int]]:
        return [(row.key, row.number) for row in await self.rows(effects)]

    async def waiting(self) -> list[sa.Row[tuple[object, ...]]]:
        return await self.rows(inbox_waiting_table)

    async def dead(self) -> list[sa.Row[tuple[object, ...]]]:
        return await self.rows(dead_letter_table)

    async def inbox(self) -> list[sa.Row[tuple[object, ...]]]:
        return await self.rows(inbox_table)

    async def stranded(self) -> list[str]:
        """Give the lanes whose first message has neither a due time nor an operator to wait for."""
        first: dict[tuple[str, str], sa.Row[tuple[object, ...]]] = {}
        for row in await self.waiting():
            first.setdefault((row.consumer, row.lane), row)
        return [row.message_id for row in first.values() if row.due_at is None and row.state != "parked"]

    async def settled(self, consumer: Consumer) -> None:
        """Make due attempts until nothing waits with a due time."""
        async with asyncio.timeout(TIMEOUT):
            while any(row.due_at is not None for row in await self.waiting()):
                await consumer.retry_due()


@asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(consumer.run())
    try:
        yield task
        consumer.stop()
        async with asyncio.timeout(TIMEOUT):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, not one event
            await asyncio.sleep(0.005)


def note(key: str | None, number: int, consumer: str = "noted") -> sa.Executable:
    return sa.insert(effects).values(consumer=consumer, key=key, number=number)


async def prepared(database: Database) -> World:
    await database.transact(create_missing)
    await database.transact(metadata.create_all)
    return World(database)
