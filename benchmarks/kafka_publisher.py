"""What the Kafka adapter costs, against the bare driver in the same run: publishing in batches, and reading.

    python benchmarks/kafka_publisher.py kafka://127.0.0.1:9092

Cases take turns, round by round, on the same topic, with the same bytes; a ratio is the median of the rounds' own
ratios. The bare producer sends the same headers, made beforehand, counts its delivery reports, and flushes.
"""

import asyncio
import json
import logging
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.messages import Message, new_id
from txpatterns.transport import Verdict, to_wire_headers

KEYS, PAYLOAD, BATCH, BATCHES, ROUNDS = 977, b"x" * 479, 500, 20, 7

Case = Callable[[], Awaitable[float]]


def make_topic(servers: str) -> str:
    name = f"bench-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, num_partitions=6, replication_factor=1)])[name].result(30)
    return name


class Publishing:
    """The bare driver and the adapter, each with a producer of its own and the same settings."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        self.broker = broker
        self.bare = Producer({**broker.settings.producer_config(), "log_level": 0})
        self.batches = [
            [Message(new_id(), topic, "bench.happened", PAYLOAD, f"key-{(b * BATCH + n) % KEYS}") for n in range(BATCH)]
            for b in range(BATCHES)
        ]
        self.wire = [
            [(m.topic, m.payload, (m.key or "").encode(), list(to_wire_headers(m).items())) for m in batch]
            for batch in self.batches
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
        assert confirmed == BATCH * BATCHES
        return BATCH * BATCHES / (time.perf_counter() - started)

    async def published(self) -> float:
        started = time.perf_counter()
        for batch in self.batches:
            await self._publish(batch)
        return BATCH * BATCHES / (time.perf_counter() - started)

    async def published_two_at_a_time(self) -> float:
        started = time.perf_counter()
        for first in range(0, BATCHES, 2):
            await asyncio.gather(*(self._publish(batch) for batch in self.batches[first : first + 2]))
        return BATCH * BATCHES / (time.perf_counter() - started)

    async def _publish(self, batch: list[Message]) -> None:
        confirmed = 0
        async for told in self.broker.publish(batch):
            confirmed += sum(outcome.verdict is Verdict.CONFIRMED for outcome in told.values())
        assert confirmed == BATCH


class Reading:
    """Everything in the topic, by a group of its own each time."""

    def __init__(self, broker: KafkaBroker, topic: str, count: int) -> None:
        self.broker = broker
        self.topic = topic
        self.count = count

    async def consumed(self) -> float:
        consumer = Consumer(self.broker.settings.consumer_config(new_id()))
        consumer.subscribe([self.topic])
        started, seen = 0.0, 0
        while seen < self.count:
            batch = consumer.consume(500, 0.1)
            if batch:
                started = started or time.perf_counter()
                seen += len(batch)
                consumer.commit(asynchronous=True)
        speed = self.count / (time.perf_counter() - started)
        consumer.close()
        return speed

    async def subscribed(self) -> float:
        async with self.broker.subscribe([self.topic], group=new_id()) as batches:
            started, seen = 0.0, 0
            async for batch in batches:
                started = started or time.perf_counter()
                for delivery in batch:
                    await delivery.ack()
                seen += len(batch)
                if seen >= self.count:
                    break
            return self.count / (time.perf_counter() - started)


async def compare(cases: dict[str, Case], rounds: int) -> dict[str, dict[str, float]]:
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            speed = await case()
            if number:  # the first round warms up
                speeds[name].append(speed)
    base = next(iter(speeds.values()))
    return {
        name: {
            "per_second": round(statistics.median(found)),
            "ratio": round(statistics.median(mine / bare for mine, bare in zip(found, base, strict=True)), 2),
        }
        for name, found in speeds.items()
    }


async def main(url: str) -> None:
    logging.getLogger("txpatterns.kafka").setLevel(logging.ERROR)
    async with KafkaBroker.from_url(url) as broker:
        topic = make_topic(broker.settings.servers)
        publishing = Publishing(broker, topic)
        cases: dict[str, Case] = {
            "produce 500 + flush": publishing.flushed,
            "publish(500)": publishing.published,
            "publish(500), two at a time": publishing.published_two_at_a_time,
        }
        report = {"publish": await compare(cases, ROUNDS)}
        reading = Reading(broker, topic, 100_000)
        both: dict[str, Case] = {"consume(500) + commit": reading.consumed, "subscribe, ack each": reading.subscribed}
        report["read"] = await compare(both, 3)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
