"""Reading from Kafka: a thread that polls, whatever the application is doing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from txpatterns.brokers.kafka.driver_log import DriverLog
from txpatterns.brokers.kafka.failures import describe, ends_intake, error_of, group_unclear
from txpatterns.brokers.kafka.progress import Progress
from txpatterns.brokers.kafka.settings import KafkaSettings
from txpatterns.clock import Clock

logger = logging.getLogger("txpatterns.kafka")

Records = list[tuple[Progress, list[KafkaMessage]]]
"""What one read brought: runs of records, each of one partition and in its order."""

_BATCH = 500
_POLL = 0.1
_TRY_REFUSED_AFTER = 30.0
_ROOM_WITHIN = 0.05
_PATIENCE = 4
"""How many times in a row there may be no room before the partitions are paused."""


class ConsumerThread:
    """One member of a group. It never waits for the application: where that is slow, partitions are paused.

    ``arrived`` is called with records, in order per partition; ``ended`` once, with the error if there was one.
    Both are called in the thread.
    """

    def __init__(
        self, topics: Sequence[str], config: Mapping[str, object], settings: KafkaSettings, clock: Clock
    ) -> None:
        self.acknowledged = threading.Event()
        self._topics = self._wanted = list(topics)
        self._refused: dict[str, tuple[KafkaError, float]] = {}
        self._config = config
        self._settings = settings
        self._clock = clock
        self._stopping = threading.Event()
        self._owned: dict[tuple[str, int], Progress] = {}
        self._paused: set[tuple[str, int]] = set()
        self._committing = False
        self._commit_at = 0.0
        self._fresh: set[tuple[str, int]] = set()
        self._revoked: set[tuple[str, int]] = set()
        self._full = False

    def stop(self) -> None:
        """Ask the thread to leave the group and end."""
        self._stopping.set()
        self.acknowledged.set()

    def read(self, topics: Sequence[str]) -> None:
        """Read these topics from now on; without any, those of before."""
        if topics:
            self._wanted = list(topics)

    def refused(self) -> dict[str, KafkaError]:
        """Give the topics that Kafka has lately refused to let us read."""
        since = self._clock.monotonic() - _TRY_REFUSED_AFTER
        return {name: error for name, (error, at) in tuple(self._refused.items()) if at > since}

    def run(self, arrived: Callable[[Records], None], ended: Callable[[Exception | None], None]) -> None:
        """Poll until told to stop; the body of the thread."""
        try:
            consumer = Consumer({**self._config, "on_commit": self._on_commit, "logger": DriverLog(self._clock)})
        except (KafkaException, ValueError, TypeError) as error:
            ended(error)
            return
        failure: Exception | None = None
        try:
            self._subscribe(consumer)
            while not self._stopping.is_set():
                if self._wanted != self._topics:
                    self._subscribe(consumer)
                self._commit(consumer)
                if self._has_room() or self._is_patient():
                    self._pause_and_resume(consumer)
                    records = self._read(consumer)
                    if records:
                        arrived(records)
        except Exception as error:  # noqa: BLE001 - whatever ends the thread is told to the subscriber
            failure = error
        try:
            consumer.close()  # revokes, and so commits what is done
        except KafkaException as error:
            logger.info("leaving the group: %s", error)
        ended(failure)

    def _subscribe(self, consumer: Consumer) -> None:
        self._topics = self._wanted
        consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _go_on_without(self, topic: str | None, error: KafkaError) -> bool:
        """Leave out a topic that may not be read; says whether others are left."""
        others = [name for name in self._wanted if name != topic]
        if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED or topic is None or not others:
            return False
        if topic not in self._refused:
            logger.warning("the topic %s may not be read: %s", topic, describe(error))
        self._refused[topic] = error, self._clock.monotonic()
        self._wanted = others
        return True

    def _read(self, consumer: Consumer) -> Records:
        # `consume` would wait until the batch is full; this takes the first at once, and what is there behind it.
        first = consumer.poll(_POLL)
        if first is None:
            return []
        self._fresh.clear()
        self._revoked.clear()
        records: Records = []
        last, run = ("", -1), list[KafkaMessage]()
        for message in [first, *consumer.consume(_BATCH - 1, 0)]:
            error = message.error()
            if error is not None:
                if ends_intake(error) and not self._go_on_without(message.topic(), error):
                    raise KafkaException(error)
                logger.warning("Kafka's consumer says: %s", describe(error))
                continue
            key = (message.topic() or "", message.partition() or 0)
            if key != last:
                last, run, progress = key, [], self._owned.get(key)
                if progress is not None:  # revoked while this was being gathered: whoever has it now reads it again
                    records.append((progress, run))
            run.append(message)
        for progress, run in records:
            progress.take_in([(message.offset() or 0) for message in run], [len(message) for message in run])
        if self._fresh & self._revoked:
            # Taken and given back within one call: which records belong to which time cannot be told.
            raise group_unclear()
        return records

    # ------------------------------------------------------------------ room

    def _has_room(self) -> bool:
        for progress in self._owned.values():
            progress.advance()
        settings, owned = self._settings, self._owned.values()
        # Once full, half must be done before it goes on: each pause makes the driver fetch again what it had.
        share = 2 if self._full else 1
        self._full = (
            sum(progress.in_flight for progress in owned) * share >= settings.max_in_flight
            or sum(progress.bytes for progress in owned) * share >= settings.max_in_flight_bytes
        )
        return not self._full

    def _is_patient(self) -> bool:
        """Wait a little for room; when there is none for long, go on with everything paused."""
        if self._paused >= self._owned.keys():
            return True
        for _ in range(_PATIENCE):
            self.acknowledged.clear()
            if self._has_room() or self._stopping.is_set():
                return False
            self.acknowledged.wait(_ROOM_WITHIN)
        return True

    def _pause_and_resume(self, consumer: Consumer) -> None:
        wanted = set() if self._has_room() else set(self._owned)
        pause, resume = wanted - self._paused, self._paused - wanted
        if pause:
            consumer.pause([TopicPartition(*key) for key in pause])
        if resume:
            consumer.resume([TopicPartition(*key) for key in resume])
        self._paused = wanted

    # ------------------------------------------------------------------ offsets

    def _commit(self, consumer: Consumer) -> None:
        now = self._clock.monotonic()
        if self._committing or now < self._commit_at:
            return
        offsets = self._committable(self._owned.values())
        self._commit_at = now + self._settings.commit_interval.total_seconds()
        if offsets:
            self._committing = True
            try:
                consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as raised:
                self._on_commit(error_of(raised), offsets)

    def _committable(self, progresses: Iterable[Progress]) -> list[TopicPartition]:
        offsets = []
        for progress in progresses:
            progress.advance()
            if progress.to_commit is not None:
                offsets.append(TopicPartition(progress.key[0], progress.key[1], progress.to_commit))
        return offsets

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        self._committing = False
        if error is not None:
            logger.info("offsets were not committed, the next commit has them: %s", describe(error))
            return
        for offset in offsets:
            progress = self._owned.get((offset.topic, offset.partition))
            if progress is not None and offset.error is None:
                progress.committed = offset.offset

    # ------------------------------------------------------------------ rebalances

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for found in partitions:
            key = (found.topic, found.partition)
            self._owned[key] = Progress(*key)
            self._paused.discard(key)
            self._fresh.add(key)
        self._committing = False  # a commit of the time before tells nothing of now
        logger.info("assigned: %s", _named(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leaving = self._let_go(partitions)
        ticks = 0 if self._stopping.is_set() else int(self._settings.revoke_wait.total_seconds() / _ROOM_WITHIN)
        for _ in range(ticks):
            self.acknowledged.clear()
            for progress in leaving:
                progress.advance()
            if not any(progress.is_busy for progress in leaving):
                break
            self.acknowledged.wait(_ROOM_WITHIN)
        offsets = self._committable(leaving)
        if offsets:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as raised:
                logger.info("a last commit failed, its messages come again: %s", describe(error_of(raised)))
        logger.info("revoked: %s", _named(partitions))

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._let_go(partitions)
        logger.warning("lost, and so read by another member from its last commit: %s", _named(partitions))

    def _let_go(self, partitions: list[TopicPartition]) -> list[Progress]:
        leaving = []
        for found in partitions:
            key = (found.topic, found.partition)
            self._paused.discard(key)
            self._revoked.add(key)
            progress = self._owned.pop(key, None)
            if progress is not None:
                progress.lost = True
                leaving.append(progress)
        return leaving


def _named(partitions: list[TopicPartition]) -> str:
    return ", ".join(f"{found.topic}/{found.partition}" for found in partitions) or "nothing"
