"""What the broker knows of our topics: asked before the first use of each, and again from time to time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType, TopicDescription  # type: ignore[attr-defined]  # they are re-exported, the stub does not say so

from txpatterns.brokers.kafka.failures import error_of
from txpatterns.brokers.kafka.settings import OVERHEAD, KafkaSettings
from txpatterns.clock import Clock

logger = logging.getLogger("txpatterns.kafka")

_ANSWER_WITHIN = 5.0
_TRIES = (0.0, 0.1, 0.2, 0.4, 0.8)
_ASK_AGAIN = timedelta(minutes=5)
_MADE = (KafkaError.NO_ERROR, KafkaError.TOPIC_ALREADY_EXISTS)


@dataclass(frozen=True, slots=True)
class Topic:
    """What was found out about a topic."""

    partitions: int
    asked_at: float


class Topics:
    """Knows which topics exist; makes them only if told to; warns of what puts messages at risk."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._known: dict[str, Topic] = {}
        self._asking = asyncio.Lock()

    def doubt(self) -> None:
        """The broker has not answered: ask before the next use of any topic."""
        self._known = {name: Topic(topic.partitions, float("-inf")) for name, topic in self._known.items()}

    def unsure(self, names: Iterable[str]) -> list[str]:
        """Give the topics that have to be asked for before they are used."""
        oldest = self._clock.monotonic() - _ASK_AGAIN.total_seconds()
        known = self._known
        return [name for name in dict.fromkeys(names) if name not in known or known[name].asked_at < oldest]

    async def check(self, names: Iterable[str]) -> dict[str, KafkaError]:
        """Ask for topics, and give those that cannot be used, with the reason.

        Raises:
            KafkaException: nobody answered.
        """
        async with self._asking:
            missing: dict[str, KafkaError] = {}
            for pause in _TRIES:
                # Not the injected clock: a topic that was just made is known to each broker a moment later.
                await asyncio.sleep(pause)
                unsure = self.unsure(names)
                missing = await asyncio.to_thread(self._ask, unsure) if unsure else {}
                if not any(error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART for error in missing.values()):
                    break
            return missing

    def _ask(self, names: list[str]) -> dict[str, KafkaError]:
        admin = AdminClient({**self._settings.common_config(), "log_level": 0})
        found, missing = self._describe(admin, names)
        absent = [name for name, error in missing.items() if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART]
        if absent and self._settings.create_topics:
            self._create(admin, absent)
        new = [name for name in found if name not in self._known]
        for name, description in found.items():
            self._note(name, len(description.partitions))
        if new:
            self._warn_of_weakness(admin, {name: found[name] for name in new})
        return missing

    def _describe(
        self, admin: AdminClient, names: list[str]
    ) -> tuple[dict[str, TopicDescription], dict[str, KafkaError]]:
        found: dict[str, TopicDescription] = {}
        missing: dict[str, KafkaError] = {}
        asked = admin.describe_topics(TopicCollection(names), request_timeout=_ANSWER_WITHIN)
        for name, future in asked.items():
            try:
                found[name] = future.result()
            except KafkaException as raised:
                error = error_of(raised)
                if error.code() not in (
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    KafkaError.TOPIC_AUTHORIZATION_FAILED,
                    KafkaError.TOPIC_EXCEPTION,
                ):
                    raise
                missing[name] = error
        return found, missing

    def _create(self, admin: AdminClient, names: list[str]) -> None:
        partitions, replication = self._settings.create_topics, self._settings.replication
        asked = admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=replication) for name in names],
            operation_timeout=_ANSWER_WITHIN,
        )
        for name, future in asked.items():
            try:
                future.result()
                logger.info("made the topic %s with %d partitions and %d copies", name, partitions, replication)
            except KafkaException as raised:
                if error_of(raised).code() not in _MADE:
                    raise

    def _note(self, name: str, partitions: int) -> None:
        before = self._known.get(name)
        if before is not None and before.partitions != partitions:
            logger.warning(
                "the topic %s had %d partitions and has %d: keys have moved, and the order of a key is not kept "
                "across the change",
                name,
                before.partitions,
                partitions,
            )
        self._known[name] = Topic(partitions, self._clock.monotonic())

    def _warn_of_weakness(self, admin: AdminClient, found: dict[str, TopicDescription]) -> None:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        for resource, future in admin.describe_configs(resources, request_timeout=_ANSWER_WITHIN).items():
            try:
                entries = future.result()
            except KafkaException as raised:
                logger.info("the settings of %s could not be read: %s", resource.name, error_of(raised).str())
                continue
            copies = min((len(p.replicas) for p in found[resource.name].partitions), default=0)
            values = {name: int(entries[name].value) for name in ("min.insync.replicas", "max.message.bytes")}
            for warning in weaknesses(copies, values, self._settings.max_payload):
                logger.warning("the topic %s %s", resource.name, warning)


def weaknesses(copies: int, values: dict[str, int], max_payload: int) -> list[str]:
    """Say in words what is weak about a topic's settings."""
    found = []
    if copies < 2:
        found.append("has one copy of each partition: what is confirmed is lost with that broker's disk")
    elif values["min.insync.replicas"] < 2:
        found.append("has min.insync.replicas=1: what is confirmed may be on one disk only")
    if values["max.message.bytes"] < max_payload + OVERHEAD:
        found.append(
            f"accepts {values['max.message.bytes']} bytes, which is less than max_payload={max_payload} and what "
            "travels with it: larger messages will be rejected"
        )
    return found
