"""A look at Kafka from outside of publishing and reading: what is wrong with topics, and how much waits. It blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # they are re-exported, the stub does not say so

from txpatterns.brokers.kafka.administration import administration
from txpatterns.brokers.kafka.failures import TOPIC_MISSING, describe, error_of
from txpatterns.brokers.kafka.settings import KafkaSettings
from txpatterns.brokers.kafka.topics import ANSWER_WITHIN, OF_THE_TOPIC, examine_settings, standing_of
from txpatterns.findings import Finding, Severity
from txpatterns.transport import Depth

_LOOK_WITHIN = 3.0
"""Seconds for reading the first message that waits in each partition."""
_NO_GROUP = (
    KafkaError.GROUP_ID_NOT_FOUND,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
)
"""There is no such group, or nobody who knows it yet: on a server that has just started, the group's first use."""


def examine(settings: KafkaSettings, names: Sequence[str], group: str | None) -> list[Finding]:
    """Look at topics and at what a group needs; nothing is made or changed."""
    try:
        with administration(settings) as admin:
            topics = {name: admin.list_topics(name, timeout=ANSWER_WITHIN).topics[name] for name in names}
            unusable = {name: error for name, topic in topics.items() if (error := topic.error or standing_of(topic))}
            usable = {name: topic for name, topic in topics.items() if name not in unusable}
            found = examine_settings(admin, usable, settings.max_payload) if usable else []
            found += [_unusable(settings, name, error) for name, error in unusable.items()]
            return found if group is None else [*found, *_of_group(admin, group)]
    except KafkaException as raised:
        words = f"Kafka does not answer, or refuses this client. {settings.mask(describe(error_of(raised)))}"
        fix = "Check the address, the login and that it runs."
        return [Finding(Severity.ERROR, f"Kafka at {settings.servers}", words, fix)]


def _unusable(settings: KafkaSettings, name: str, error: KafkaError) -> Finding:
    subject = f"topic {name}"
    if error.code() not in (*OF_THE_TOPIC, KafkaError.LEADER_NOT_AVAILABLE):
        raise KafkaException(error)
    if error.code() not in TOPIC_MISSING:
        return Finding(Severity.ERROR, subject, f"It cannot be used. {describe(error)}", "Look it up at the broker.")
    if settings.create_topics:
        words = f"It is not there yet; its first use makes it, with {settings.create_topics} partitions."
        return Finding(Severity.INFO, subject, words)
    return Finding(Severity.ERROR, subject, "It does not exist.", "Make it, or set create_topics.")


def _of_group(admin: AdminClient, group: str) -> list[Finding]:
    try:
        admin.describe_consumer_groups([group], request_timeout=ANSWER_WITHIN)[group].result()
    except KafkaException as raised:
        error = error_of(raised)
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            words = f"This user may not read as this group. {describe(error)}"
            return [Finding(Severity.ERROR, f"group {group}", words, "Give the user READ on the group.")]
        if error.code() not in _NO_GROUP:
            raise
    return []


def depths(settings: KafkaSettings, names: Sequence[str], group: str) -> list[Depth]:
    """Say how far a group is behind in each partition.

    Raises:
        KafkaException: nobody answered.
    """
    with administration(settings) as admin:
        partitions = list[TopicPartition]()
        for name in names:
            topic = admin.list_topics(name, timeout=ANSWER_WITHIN).topics[name]
            partitions += [TopicPartition(name, number) for number in sorted(topic.partitions)]
        if not partitions:
            return []
        readers = _readers(admin, group)
        ends = _offsets(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        firsts = _offsets(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        request = ConsumerGroupTopicPartitions(group, partitions)
        answer = admin.list_consumer_group_offsets([request], request_timeout=ANSWER_WITHIN)[group].result()
    committed = {(each.topic, each.partition): each.offset for each in answer.topic_partitions or ()}
    began = {place: max(_begun(committed.get(place)), first) for place, first in firsts.items()}
    waiting = {place: began[place] for place, end in ends.items() if end > began[place]}
    ages = _ages(settings, waiting)
    return [
        Depth(
            topic,
            group,
            f"{topic}/{number}",
            ready=max(ends[topic, number] - began[topic, number], 0),
            oldest=ages.get((topic, number)),
            readers=readers.count((topic, number)),
        )
        for topic, number in ends
    ]


_Place = tuple[str, int]


def _begun(committed: int | None) -> int:
    """Give where a group goes on; one that has committed nothing yet begins at the first that is there."""
    return 0 if committed is None or committed == OFFSET_INVALID else committed


def _offsets(admin: AdminClient, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[_Place, int]:
    asked = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ANSWER_WITHIN)
    return {(place.topic, place.partition): future.result().offset for place, future in asked.items()}


def _readers(admin: AdminClient, group: str) -> list[_Place]:
    """Give the partitions that members have; one that moves may have two."""
    try:
        members = admin.describe_consumer_groups([group], request_timeout=ANSWER_WITHIN)[group].result().members
    except KafkaException as raised:
        if error_of(raised).code() in _NO_GROUP:
            return []
        raise
    return [(each.topic, each.partition) for member in members for each in member.assignment.topic_partitions]


def _ages(settings: KafkaSettings, waiting: dict[_Place, int]) -> dict[_Place, timedelta]:
    """Read the first message that waits in each partition, as a member of no group, and tell how old it is.

    A partition whose message does not come in time is left out.
    """
    if not waiting:
        return {}
    consumer = Consumer({**settings.consumer_config("txpatterns-look"), "log_level": 0})
    until, found = time.monotonic() + _LOOK_WITHIN, dict[_Place, timedelta]()
    try:
        consumer.assign([TopicPartition(*place, offset) for place, offset in waiting.items()])
        while len(found) < len(waiting) and (left := until - time.monotonic()) > 0:
            message = consumer.poll(left)
            if message is None or message.error() is not None:
                continue
            place = (str(message.topic()), int(message.partition() or 0))
            if place not in found:
                consumer.pause([TopicPartition(*place)])
                found[place] = timedelta(seconds=max(time.time() - message.timestamp()[1] / 1000, 0))
        return found
    finally:
        consumer.close()
