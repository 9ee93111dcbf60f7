"""What the broker knows of our topics: asked before the first use of each, and again from time to time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType, TopicMetadata  # type: ignore[attr-defined]  # they are re-exported, the stub does not say so

from txpatterns.brokers.kafka.administration import administration
from txpatterns.brokers.kafka.failures import TOPIC_MISSING, describe, error_of
from txpatterns.brokers.kafka.settings import OVERHEAD, KafkaSettings
from txpatterns.clock import Clock
from txpatterns.findings import Finding, Severity

logger = logging.getLogger("txpatterns.kafka")

ANSWER_WITHIN = 5.0
_TRIES = (0.0, 0.1, 0.2, 0.4, 0.8)
_ASK_AGAIN = timedelta(minutes=5)
_ASK_AGAIN_IF_MISSING = timedelta(seconds=1)
OF_THE_TOPIC = (
    *TOPIC_MISSING,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
)
_MADE = (KafkaError.NO_ERROR, KafkaError.TOPIC_ALREADY_EXISTS)


@dataclass(frozen=True, slots=True)
class Topic:
    """What was found out about a topic."""

    partitions: int
    asked_at: float
    standing: KafkaError | None = None
    """Why it takes no messages now, although it is there."""


class Topics:
    """Knows which topics exist; makes them only if told to."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._known: dict[str, Topic] = {}
        self._missing: dict[str, tuple[KafkaError, float]] = {}
        """Topics that were not there, and when that was."""
        self._asking = asyncio.Lock()

    def begin_anew(self) -> None:
        """The next use may be in another event loop, or in a forked child; what is known stays."""
        self._asking = asyncio.Lock()

    def doubt(self) -> None:
        """The broker has not answered: ask before the next use of any topic."""
        self._known = {name: replace(topic, asked_at=float("-inf")) for name, topic in self._known.items()}

    @property
    def used(self) -> list[str]:
        """The topics that were used and are there."""
        return list(self._known)

    def unsure(self, names: Iterable[str]) -> list[str]:
        """Give the topics that have to be asked for before they are used."""
        now, known = self._clock.monotonic(), self._known
        oldest, soonest = now - _ASK_AGAIN.total_seconds(), now - _ASK_AGAIN_IF_MISSING.total_seconds()

        def is_unsure(name: str) -> bool:
            topic = known.get(name)
            return topic is None or topic.asked_at < (soonest if topic.standing else oldest)

        return [name for name in dict.fromkeys(names) if is_unsure(name)]

    def standing(self, names: Iterable[str]) -> dict[str, KafkaError]:
        """Give those of these topics that are there and take no messages now, as far as is known, with the reason."""
        found = {name: self._known[name].standing for name in names if name in self._known}
        return {name: error for name, error in found.items() if error is not None}

    async def check(self, names: Iterable[str]) -> dict[str, KafkaError]:
        """Ask for topics, and give those that cannot be used, with the reason.

        Raises:
            KafkaException: nobody answered.
        """
        async with self._asking:
            unsure = self.unsure(names)
            missing = self._lately_missing(unsure)
            found = await self._found_missing([name for name in unsure if name not in missing])
            self._note_missing(found)
            return missing | found

    async def _found_missing(self, names: list[str]) -> dict[str, KafkaError]:
        """Ask, and where missing topics are made here, ask again until each broker knows them.

        Otherwise one answer is enough: all that is published waits for it, and whoever needs the topic asks again.
        """
        found: dict[str, KafkaError] = {}
        for pause in _TRIES if self._settings.create_topics else _TRIES[:1]:
            await asyncio.sleep(pause)  # not the injected clock: it is the brokers that need the time
            names = self.unsure(names)
            found = await asyncio.to_thread(self._ask, names) if names else {}
            if not any(error.code() in TOPIC_MISSING for error in found.values()):
                break
        return found

    def _lately_missing(self, names: Iterable[str]) -> dict[str, KafkaError]:
        """Give what was missing a moment ago: whoever publishes to it again and again is not to slow down others."""
        oldest = self._clock.monotonic() - _ASK_AGAIN_IF_MISSING.total_seconds()
        noted = {name: self._missing[name] for name in names if name in self._missing}
        return {name: error for name, (error, asked_at) in noted.items() if asked_at > oldest}

    def _note_missing(self, found: dict[str, KafkaError]) -> None:
        now = self._clock.monotonic()
        for name, error in found.items():
            if name not in self._missing:
                logger.warning("the topic %s cannot be used: %s", name, describe(error))
            self._known.pop(name, None)
            self._missing[name] = (error, now)

    def _ask(self, names: list[str]) -> dict[str, KafkaError]:
        with administration(self._settings) as admin:
            found, missing = self._look_up(admin, names)
            absent = [name for name, error in missing.items() if error.code() in TOPIC_MISSING]
            if absent and self._settings.create_topics:
                self._create(admin, absent)
            for name, topic in found.items():
                self._note(name, topic)
        return missing

    def _look_up(self, admin: AdminClient, names: list[str]) -> tuple[dict[str, TopicMetadata], dict[str, KafkaError]]:
        """Ask any broker that answers; describing a topic would need the one that is the controller."""
        found: dict[str, TopicMetadata] = {}
        missing: dict[str, KafkaError] = {}
        for name in names:
            topic = admin.list_topics(name, timeout=ANSWER_WITHIN).topics[name]
            if topic.error is None:
                found[name] = topic
            elif topic.error.code() in OF_THE_TOPIC:
                missing[name] = topic.error
            else:
                raise KafkaException(topic.error)
        return found, missing

    def _create(self, admin: AdminClient, names: list[str]) -> None:
        partitions, replication = self._settings.create_topics, self._settings.replication
        asked = admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=replication) for name in names],
            operation_timeout=ANSWER_WITHIN,
        )
        for name, future in asked.items():
            try:
                future.result()
                logger.info("made the topic %s with %d partitions and %d copies", name, partitions, replication)
            except KafkaException as raised:
                if error_of(raised).code() not in _MADE:
                    raise

    def _note(self, name: str, topic: TopicMetadata) -> None:
        self._missing.pop(name, None)
        before, partitions = self._known.get(name), len(topic.partitions)
        if before is not None and before.partitions != partitions:
            logger.warning(
                "the topic %s had %d partitions and has %d: keys have moved, and the order of a key is not kept "
                "across the change",
                name,
                before.partitions,
                partitions,
            )
        self._known[name] = Topic(partitions, self._clock.monotonic(), standing_of(topic))


def examine_settings(admin: AdminClient, found: Mapping[str, TopicMetadata], max_payload: int) -> list[Finding]:
    """Read the settings of topics, and say what is weak about them."""
    told = list[Finding]()
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
    for resource, future in admin.describe_configs(resources, request_timeout=ANSWER_WITHIN).items():
        try:
            entries = future.result()
        except KafkaException as raised:
            words = f"Its settings could not be read. {describe(error_of(raised))}"
            fix = "Allow this user to describe topics' configurations."
            told.append(Finding(Severity.INFO, f"topic {resource.name}", words, fix))
            continue
        values = {name: int(entries[name].value) for name in ("min.insync.replicas", "max.message.bytes")}
        told += weaknesses(resource.name, copies_of(found[resource.name]), values, max_payload)
    return told


def copies_of(topic: TopicMetadata) -> int:
    """Count the copies of the partition that has the fewest."""
    return min((len(partition.replicas) for partition in topic.partitions.values()), default=0)


def standing_of(topic: TopicMetadata) -> KafkaError | None:
    """Say why a topic takes no messages now: what would be sent to a partition without a leader waits in the driver."""
    without = [number for number, partition in topic.partitions.items() if partition.leader < 0]
    if not without:
        return None
    return KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"no leader for partition {', '.join(map(str, without))}")


def weaknesses(name: str, copies: int, values: dict[str, int], max_payload: int) -> list[Finding]:
    """Say in words what is weak about a topic's settings."""
    found = list[tuple[str, str]]()
    if copies < 2:
        words = "It has one copy of each partition: what is confirmed is lost with that broker's disk."
        found.append((words, "Give it a replication factor of 3 and min.insync.replicas=2."))
    elif values["min.insync.replicas"] < 2:
        words = "It has min.insync.replicas=1: what is confirmed may be on one disk only."
        found.append((words, "Set min.insync.replicas=2."))
    if values["max.message.bytes"] < max_payload + OVERHEAD:
        words = (
            f"It accepts {values['max.message.bytes']} bytes, which is less than max_payload={max_payload} and what "
            "travels with it: larger messages will be rejected."
        )
        found.append((words, f"Set max.message.bytes={max_payload + OVERHEAD}, or lower max_payload."))
    return [Finding(Severity.WARNING, f"topic {name}", words, fix) for words, fix in found]
