"""What the RabbitMQ adapter costs beside aio-pika: publishing in batches with confirmations, and reading.

aio-pika, the usual asynchronous client, publishes the same bytes and headers to a quorum queue of its own, as many at a
time as a batch has, and waits for each confirmation; it reads with the same prefetch and acknowledges each message.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.adapters import PAYLOAD, batches, everything, publish, read
from benchmarks.harness import Case, Table, compare
from txpatterns.brokers.rabbitmq import RabbitMQBroker
from txpatterns.messages import Message, new_id
from txpatterns.transport import to_wire_headers

BATCH, BATCHES = 500, 12
PUBLISHED = BATCH * BATCHES
GATHERED, ITERATED = "aio-pika: gather 500 confirmed publications", "aio-pika: consume, prefetch 200, acknowledge each"


async def publishing(url: str, rounds: int) -> Table:
    """Messages per second into quorum queues, in batches of 500, each confirmed."""
    side = Side(url)
    cases = [
        Case(GATHERED, side.gathered),
        Case("publish(500), to a group with one queue", lambda: side.published(1), GATHERED, 2.0),
        Case("publish(500), to a group with four queues", lambda: side.published(4), GATHERED),
    ]
    await side.gathered()
    return await compare("Publish to RabbitMQ", "messages/s", cases, rounds)


async def reading(url: str, rounds: int) -> Table:
    """Messages per second out of quorum queues, each acknowledged."""
    side = Side(url)
    cases = [
        Case(ITERATED, side.iterated),
        Case("subscribe, look at each message, acknowledge it; four queues", side.subscribed, ITERATED, 2.0),
    ]
    return await compare("Read from RabbitMQ, without a database", "messages/s", cases, rounds)


class Side:
    """Both clients; each run has a topic, or a queue, of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def published(self, partitions: int) -> float:
        topic = f"bench-{new_id()}"
        given = batches(topic, BATCHES, BATCH)
        async with self._broker(partitions, topic) as broker:
            started = time.perf_counter()
            await publish(broker, given)
            return PUBLISHED / (time.perf_counter() - started)

    async def subscribed(self) -> float:
        topic = f"bench-{new_id()}"
        async with self._broker(4, topic) as broker:
            await publish(broker, batches(topic, BATCHES, BATCH))
            return await read(broker, topic, "bench", PUBLISHED)

    async def gathered(self) -> float:
        import aio_pika

        async with await aio_pika.connect(self.url) as connection:
            channel, queue = await self._queue(connection)
            given = [self._made(batch) for batch in batches(queue.name, BATCHES, BATCH)]
            started = time.perf_counter()
            for batch in given:
                exchange = channel.default_exchange
                await asyncio.gather(*(exchange.publish(each, queue.name, mandatory=True) for each in batch))
            return PUBLISHED / (time.perf_counter() - started)

    async def iterated(self) -> float:
        import aio_pika

        async with await aio_pika.connect(self.url) as connection:
            channel, queue = await self._queue(connection)
            await channel.set_qos(prefetch_count=200)
            for batch in batches(queue.name, BATCHES, BATCH):
                exchange = channel.default_exchange
                await asyncio.gather(*(exchange.publish(each, queue.name) for each in self._made(batch)))
            started, size, seen = 0.0, 0, 0
            async with queue.iterator() as deliveries:
                async for each in deliveries:
                    started = started or time.perf_counter()
                    size += len(each.body)
                    await each.ack()
                    seen += 1
                    if seen == PUBLISHED:
                        break
            everything(size, PUBLISHED * len(PAYLOAD))
            return PUBLISHED / (time.perf_counter() - started)

    def _broker(self, partitions: int, topic: str) -> RabbitMQBroker:
        broker = RabbitMQBroker.from_url(self.url, partitions=partitions)
        broker.declare("bench", [topic])
        return broker

    async def _queue(self, connection: Any) -> tuple[Any, Any]:
        channel = await connection.channel(publisher_confirms=True)
        arguments = {"x-queue-type": "quorum"}
        return channel, await channel.declare_queue(f"bench-{new_id()}", durable=True, arguments=arguments)

    def _made(self, batch: list[Message]) -> list[Any]:
        import aio_pika

        durable = aio_pika.DeliveryMode.PERSISTENT
        return [
            aio_pika.Message(each.payload, headers=dict(to_wire_headers(each)), delivery_mode=durable) for each in batch
        ]
