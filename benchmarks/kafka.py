"""What the Kafka adapter costs beside the bare driver: publishing in batches, and reading.

The bare producer sends the same bytes and headers, made beforehand, counts its delivery reports, and flushes. The
bare consumer looks at nothing and commits each batch without waiting, with the adapter's own settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from confluent_kafka import Consumer, Producer

from benchmarks.adapters import batches, everything, publish, read
from benchmarks.harness import Case, Table, compare
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.inbox.lanes import Lanes
from txpatterns.messages import Message, new_id
from txpatterns.transport import Delivery, to_wire_headers

BATCH, BATCHES, STORED = 500, 40, 100_000
PUBLISHED = BATCH * BATCHES
FLUSHED, CONSUMED = "bare: produce 500, flush", "bare: consume(500), commit each batch"


async def publishing(broker: KafkaBroker, topic: str, rounds: int) -> Table:
    """Messages per second into a topic, in batches of 500."""
    side = Publishing(broker, topic)
    cases = [
        Case(FLUSHED, side.flushed),
        Case("publish(500), one after the other", side.published, FLUSHED, 0.9),
        Case("publish(500), two at a time, as the relay does", side.published_in_two_rows, FLUSHED, 0.9),
    ]
    await side.published()  # connections are open and the topic is known
    table = await compare("Publish to Kafka", "messages/s", cases, rounds)
    table.notes.append(
        "The bare producer sends texts and headers that were made beforehand. One after the other, the next batch is "
        "made only when the last is confirmed; the relay keeps two under way."
    )
    return table


async def reading(broker: KafkaBroker, topic: str, rounds: int) -> Table:
    """Messages per second out of a topic, by a new group each time, from the first message on."""
    side = Reading(broker, topic)
    await side.fill()
    cases = [
        Case(CONSUMED, side.consumed),
        Case("subscribe, look at each message, acknowledge it", side.subscribed, CONSUMED, 0.4),
        Case("the same through the consumer's lanes, handler does nothing", side.through_lanes, CONSUMED, 0.4),
    ]
    table = await compare("Read from Kafka, without a database", "messages/s", cases, rounds)
    table.notes.append(
        "The bare consumer never looks into a message. Here key, headers and time of each are read, which takes most "
        "of the time, and its acknowledgement is kept; the lanes add a task for each message. A handler's transaction "
        "in a database takes many times as long as both."
    )
    return table


class Publishing:
    """The bare driver and the adapter, each with a producer of its own and the same settings."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        self.broker = broker
        self.bare = Producer({**broker.settings.producer_config(), "log_level": 0})
        self.batches = batches(topic, BATCHES, BATCH)
        self.wire = [
            [(m.topic, m.payload, (m.key or "").encode(), _headers(m)) for m in batch] for batch in self.batches
        ]

    async def flushed(self) -> float:
        confirmed = 0

        def report(error: object, _: object) -> None:
            nonlocal confirmed
            confirmed += error is None

        started = time.perf_counter()
        for batch in self.wire:
            for topic, value, key, headers in batch:
                self.bare.produce(topic, value=value, key=key, headers=headers, on_delivery=report)
            self.bare.flush()
        everything(confirmed, PUBLISHED)
        return PUBLISHED / (time.perf_counter() - started)

    async def published(self) -> float:
        started = time.perf_counter()
        await publish(self.broker, self.batches)
        return PUBLISHED / (time.perf_counter() - started)

    async def published_in_two_rows(self) -> float:
        started = time.perf_counter()
        await asyncio.gather(publish(self.broker, self.batches[::2]), publish(self.broker, self.batches[1::2]))
        return PUBLISHED / (time.perf_counter() - started)


class Reading:
    """Everything in the topic. The clock runs from the first batch on, so that joining a group is not in it."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        self.broker = broker
        self.topic = topic

    async def fill(self) -> None:
        await publish(self.broker, batches(self.topic, STORED // 1000, 1000))

    async def consumed(self) -> float:
        consumer = Consumer(self.broker.settings.consumer_config(new_id()))
        consumer.subscribe([self.topic])
        started, seen = 0.0, 0
        while seen < STORED:
            batch = consumer.consume(500, 0.1)
            if batch:
                started = started or time.perf_counter()
                seen += len(batch)
                consumer.commit(asynchronous=True)
        speed = STORED / (time.perf_counter() - started)
        consumer.close()
        return speed

    async def subscribed(self) -> float:
        return await read(self.broker, self.topic, new_id(), STORED)

    async def through_lanes(self) -> float:
        def begin(deliveries: Iterable[Delivery]) -> tuple[int, Callable[[], Awaitable[None]]]:
            return 1, next(iter(deliveries)).ack

        lanes = Lanes(begin, max_in_flight=1000, max_bytes=64_000_000, stopping=asyncio.Event())
        async with self.broker.subscribe([self.topic], group=new_id()) as deliveries:
            started, seen = 0.0, 0
            async for batch in deliveries:
                started = started or time.perf_counter()
                for delivery in batch:
                    await lanes.put(delivery)
                seen += len(batch)
                if seen >= STORED:
                    break
            await lanes.drained()
            return STORED / (time.perf_counter() - started)


def _headers(message: Message) -> dict[str, str | bytes | None]:
    return {**to_wire_headers(message)}
