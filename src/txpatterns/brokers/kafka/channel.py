"""One producer of the driver, and the publications that are under way on it.

The driver does its work in threads of its own; what it has to say is fetched by `poll`, on the event loop. A thread
that waited in `poll` would take and give back Python's lock for every delivery report, each time behind whatever
the loop is doing: half the speed where the loop is busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from txpatterns.brokers.kafka.failures import ALL_BROKERS_DOWN, PERMANENT, describe, error_of
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Outcome, Verdict, to_wire_headers

logger = logging.getLogger("txpatterns.kafka")

_DISPOSE_TRIES = 50


Report = Callable[[KafkaError | None, object], None]

Record = tuple[Message, bytes | None, dict[str, Any], Report]
"""A message in the driver's form."""


class Batch:
    """One publication: what is still open, and what was found out and is not told yet."""

    def __init__(self, messages: Sequence[Message], deadline: float) -> None:
        self.open: dict[str, bool] = {}
        self.told: dict[str, Outcome] = {}
        self.failed: list[tuple[str, KafkaError]] = []
        self.deadline = deadline
        self.lonely = len(messages) == 1
        """Nothing else was under way with it at any time, so an error is its own."""

    def prepare(self, message: Message) -> Record:
        """Count a message as open, and put it into the driver's form.

        The driver makes requests of what comes quickly one after the other: all that can be done before is.

        Raises:
            UnicodeEncodeError: its key has no bytes.
        """
        message_id, is_open, told, failed = message.id, self.open, self.told, self.failed

        def report(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append((message_id, error))
            elif is_open.pop(message_id, False):
                told[message_id] = CONFIRMED

        key = message.key
        record = message, None if key is None else key.encode(), to_wire_headers(message), report
        is_open[message_id] = True
        return record

    def take_told(self) -> dict[str, Outcome]:
        """Give what was found out since the last time."""
        told = self.told.copy()
        self.told.clear()
        return told

    def give_up(self, error: Exception) -> None:
        """Whatever is open may or may not be stored."""
        self.told.update(dict.fromkeys(self.open, Outcome(Verdict.UNKNOWN, error)))
        self.open.clear()


class Channel:
    """A producer of the driver. After any failure it is finished: all that is open on it is unknown.

    That is what keeps the order: the driver stops at the first failed request (the gapless guarantee), and our own
    deadline purges everything, so what is stored of a partition is always a prefix of what was handed over.
    """

    def __init__(self, config: Mapping[str, object], clock: Clock) -> None:
        self.finished = False
        self.suspicious = False
        """No broker can be reached, as far as the driver knows."""
        self._batches: list[Batch] = []
        self._clock = clock
        self._producer = Producer({**config, "error_cb": self._on_error, "logger": logger})

    def open(self, batch: Batch) -> None:
        """A publication begins."""
        self._batches.append(batch)
        if len(self._batches) > 1:
            for each in self._batches:
                each.lonely = False

    def send(self, records: Sequence[Record]) -> int:
        """Hand records to the driver until it refuses one; gives how many it took.

        Raises:
            BufferError, KafkaException, TypeError, ValueError: it did not take the first.
        """
        produce, taken = self._producer.produce, 0
        try:
            for message, key, headers, report in records:
                produce(message.topic, message.payload, key, on_delivery=report, headers=headers)
                taken += 1
        except (BufferError, KafkaException, TypeError, ValueError):
            if not taken:
                raise
        return taken

    def poll(self) -> bool:
        """Fetch what the driver has to say; says whether it was anything."""
        if self.finished:
            return False
        try:
            served = self._producer.poll(0)
        except Exception as raised:  # noqa: BLE001 - the driver raises what broke it, or what broke in a report
            self._on_fatal(raised)
            return True
        if served:
            self._judge()
        now = self._clock.monotonic()
        if any(batch.deadline <= now for batch in self._batches):
            self.suspicious = True
            self.finish(BrokerError("Kafka has not answered within the deadline."))
        return served > 0

    def close(self, batch: Batch) -> None:
        """Nobody waits for a publication any more."""
        batch.open.clear()
        self._batches = [each for each in self._batches if each is not batch]

    def finish(self, error: Exception) -> None:
        """Let nothing more out; all that is open is unknown. Returns at once, the driver is ended by a thread."""
        if self.finished:
            return
        self.finished = True
        if any(batch.open for batch in self._batches):
            logger.warning("what is being published to Kafka is unknown now, and will be published again: %s", error)
        for batch in self._batches:
            batch.give_up(error)
        self._batches = []
        threading.Thread(target=_dispose, args=(self._producer,), name="txp-kafka-dispose", daemon=True).start()

    def _judge(self) -> None:
        for batch in self._batches:
            if batch.failed:
                message_id, error = batch.failed[0]
                if batch.lonely and message_id in batch.open and error.code() in PERMANENT:
                    del batch.open[message_id]
                    refusal = PublishRejected(f"Kafka refused it. {describe(error)}")
                    batch.told[message_id] = Outcome(Verdict.REJECTED, refusal)
                self.finish(BrokerError(f"Kafka failed. {describe(error)}"))
                return
        self._batches = [batch for batch in self._batches if batch.open]

    def _on_fatal(self, raised: Exception) -> None:
        error = error_of(raised) if isinstance(raised, KafkaException) else None
        if error is not None and len(self._batches) == 1 and self._batches[0].lonely:
            # The reason is in the message's own report, which follows.
            for _ in range(_DISPOSE_TRIES):
                if self._batches[0].failed:
                    break
                _poll_quietly(self._producer, 0.02)
            self._judge()
        self.finish(BrokerError(f"Kafka's producer is finished. {describe(error) if error else raised!r}"))

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == ALL_BROKERS_DOWN:
            self.suspicious = True
        logger.info("Kafka's producer says: %s", describe(error))


def _dispose(producer: Producer) -> None:
    """Drop what the driver still has, and wait until it has let go of it."""
    producer.purge(in_queue=True, in_flight=True, blocking=True)
    for _ in range(_DISPOSE_TRIES):
        if not len(producer):
            break
        _poll_quietly(producer, 0.1)


def _poll_quietly(producer: Producer, seconds: float) -> None:
    try:
        producer.poll(seconds)
    except Exception as raised:  # noqa: BLE001 - a finished producer repeats why it is
        logger.debug("a finished producer says: %r", raised)
