"""What the tests of the Kafka adapter share: a look at what is really stored, past the adapter."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from txpatterns.brokers.kafka import KafkaBroker

T = TypeVar("T")


def broker_at(bootstrap: str, **options: Any) -> KafkaBroker:
    return KafkaBroker.from_url(f"kafka://{bootstrap}", **options)


def stored(bootstrap: str, topic: str) -> list[Message]:
    """The records of a topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "look", "enable.auto.commit": False})
    found: list[Message] = []
    try:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            consumer.assign([TopicPartition(topic, partition, low)])
            while consumer.position([TopicPartition(topic, partition)])[0].offset < high and low < high:
                found.extend(record for record in consumer.consume(500, 0.2) if record.error() is None)
    finally:
        consumer.close()
    return found


def ids_of(records: Iterable[Message]) -> list[str]:
    return [header(record, "message-id") for record in records]


def header(record: Message, name: str) -> str:
    value = dict(record.headers() or [])[name]
    assert isinstance(value, bytes)
    return value.decode()


def committed(bootstrap: str, group: str, topic: str, partition: int = 0) -> int | None:
    """The offset that a group has committed; None without one."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition)])
    (found,) = admin.list_consumer_group_offsets([asked])[group].result(timeout=120).topic_partitions
    return found.offset if found.offset >= 0 else None


async def eventually(condition: Callable[[], T]) -> T:
    """Wait for a condition, asking in a thread because it may ask a server. The test's own time-out bounds it."""
    while not (found := await asyncio.to_thread(condition)):  # noqa: ASYNC110 - it may be a server's
        await asyncio.sleep(0.02)
    return found
