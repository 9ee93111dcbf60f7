"""One producer of the driver, and the publications that are under way on it.

The driver does its work in threads of its own; what it has to say is fetched by `poll`. What is there already is
fetched on the event loop, where nobody has to wait for Python's lock; only when nothing is there a thread waits for
the next word. A loop that napped instead would come late, because its naps are a millisecond or more.

The driver gathers what it is handed for a few milliseconds, or it would send a request for every few messages. When
all of a publication is handed over there is nothing to wait for any more, and it is told so.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from txpatterns.brokers.kafka.driver_log import DriverLog
from txpatterns.brokers.kafka.failures import ALL_BROKERS_DOWN, PERMANENT, TOPIC_MISSING, describe, error_of
from txpatterns.brokers.kafka.wire import value_of
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Outcome, Verdict, to_wire_headers

logger = logging.getLogger("txpatterns.kafka")

_WAIT, _SOON = 0.1, 0.002
_NOTICE = 0.001
"""So long the driver is told to gather no more: its threads have to see that."""
_REASON_WITHIN = 1.0
_DISPOSE_TRIES = 50


class Batch:
    """One publication: what is still open, and what was found out and is not told yet."""

    def __init__(self, messages: Sequence[Message], deadline: float) -> None:
        self.messages = messages
        self.open = {message.id for message in messages}
        self.told: dict[str, Outcome] = {}
        self.failed: list[tuple[str, KafkaError]] = []
        self.deadline = deadline
        self.all_stored = True
        """So far, as far as it was told."""
        self.lonely = len(messages) == 1
        """Nothing else was under way with it at any time, so an error is its own."""
        self._stored: list[str] = []
        self._note = self._stored.append

    def report(self, message_id: str, error: KafkaError | None, _: object) -> None:
        """Called by the driver for each message, by whichever thread polls: so it only takes a note."""
        if error is None:
            self._note(message_id)
        else:
            self.failed.append((message_id, error))

    def collect(self) -> None:
        """Take over what was noted."""
        noted = self._stored[:]
        del self._stored[: len(noted)]  # another may have been noted meanwhile
        stored = self.open.intersection(noted)
        self.open -= stored
        self.told.update(dict.fromkeys(stored, CONFIRMED))

    def tell(self, message_id: str, outcome: Outcome) -> None:
        """The outcome of one message is known."""
        self.open.discard(message_id)
        self.told[message_id] = outcome
        self.all_stored = False

    def take_told(self) -> dict[str, Outcome]:
        """Give what was found out since the last time."""
        told, self.told = self.told, {}
        return told

    def topics_of(self, message_ids: Iterable[str]) -> set[str]:
        """Give the topics of these messages."""
        wanted = set(message_ids)
        return {message.topic for message in self.messages if message.id in wanted}

    def give_up(self, error: Exception) -> None:
        """Whatever is open may or may not be stored."""
        self.all_stored = self.all_stored and not self.open
        self.told.update(dict.fromkeys(self.open, Outcome(Verdict.UNKNOWN, error)))
        self.open.clear()


class Channel:
    """A producer of the driver. After any failure it is finished: all that is open on it is unknown.

    That is what keeps the order: the driver stops at the first failed request (the gapless guarantee), and our own
    deadline purges everything, so what is stored of a partition is always a prefix of what was handed over.
    """

    def __init__(self, config: Mapping[str, object], clock: Clock) -> None:
        self.finished = False
        self.blamed: set[str] = set()
        """The topics whose messages failed, or were not answered for in time."""
        self.suspicious = False
        """No broker can be reached, or a topic is gone, as far as the driver knows: better ask before the next use."""
        self._batches: list[Batch] = []
        self._clock = clock
        self._producer = Producer({**config, "error_cb": self._on_error, "logger": DriverLog(clock)})
        self._thread = ThreadPoolExecutor(1, "txp-kafka-producer")
        self._waiting: asyncio.Future[int | Exception] | None = None
        self._gathers = False
        """The driver may still wait for more of what it was handed."""
        self._fatal: tuple[BrokerError, float] | None = None

    def open(self, batch: Batch) -> None:
        """A publication begins."""
        self._batches.append(batch)
        if len(self._batches) > 1:
            for each in self._batches:
                each.lonely = False

    def send(self, batch: Batch, messages: deque[Message]) -> None:
        """Hand messages to the driver, each taken out when it was; one that fails stays in front.

        Raises:
            BufferError, KafkaException, TypeError, ValueError: it did not take the first.
        """
        produce, report = self._producer.produce, batch.report
        try:
            while messages:
                message = messages[0]
                message_id, topic, _, payload, key, _, _, _ = message  # each attribute would cost a look-up
                headers: dict[str, Any] = to_wire_headers(message)
                report_of = partial(report, message_id)
                produce(topic, payload or value_of(message), key, on_delivery=report_of, headers=headers)
                messages.popleft()
        finally:
            self._gathers = True

    def look(self) -> bool:
        """Fetch what the driver has to say now; says whether it was anything."""
        return not self.finished and self._digest(self._poll(0))

    async def news(self) -> None:
        """Wait until the driver has said something, or a moment has passed."""
        if self.look() or self.finished:
            return
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.get_running_loop().run_in_executor(self._thread, self._poll_on)
        waiting = self._waiting
        await asyncio.wait((waiting,))  # not the future itself: a caller that is cancelled leaves it to the others
        if not self.finished:
            self._digest(waiting.result())

    def close(self, batch: Batch) -> None:
        """Nobody waits for a publication any more."""
        batch.open.clear()
        self._batches = [each for each in self._batches if each is not batch]

    def finish(self, error: Exception, cause: KafkaError | None = None) -> None:
        """Let nothing more out; all that is open is unknown. Returns at once, the driver is ended by a thread."""
        if self.finished:
            return
        self.finished = True
        self.suspicious |= cause is not None and cause.code() in TOPIC_MISSING
        for batch in self._batches:
            batch.collect()
        if any(batch.open for batch in self._batches):
            logger.warning("what is being published to Kafka is unknown now, and will be published again: %s", error)
        for batch in self._batches:
            batch.give_up(error)
        self._batches = []
        self._thread.shutdown(wait=False)
        if self._waiting is not None:
            self._waiting.cancel()  # whoever waits need not wait for the thread
        threading.Thread(target=_dispose, args=(self._producer,), name="txp-kafka-dispose", daemon=True).start()

    def abandon(self) -> None:
        """In a forked child: leave the driver as it is, because its threads have stayed with the parent.

        It must not be ended by the interpreter's end either, which would crash the child: so one reference too many.
        """
        self.finished = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))

    def _poll(self, seconds: float) -> int | Exception:
        try:
            return self._producer.poll(seconds)
        except Exception as raised:  # noqa: BLE001 - the driver raises what broke it, or what broke in a report
            return raised

    def _poll_on(self) -> int | Exception:
        """Wait for the next word, and for what soon follows it: each call to the thread costs as much as a message."""
        found = more = self._send_now() or self._poll(_WAIT)
        while more and not isinstance(more, Exception) and len(self._producer):
            more = self._poll(_SOON)
        return more if isinstance(more, Exception) else found

    def _send_now(self) -> int | Exception:
        """Let the driver send what it still gathers, and fetch what it has to say meanwhile."""
        if not self._gathers:
            return 0
        self._gathers = False
        before = len(self._producer)
        try:
            return before - self._producer.flush(_NOTICE)
        except Exception as raised:  # noqa: BLE001 - the same as when it is polled
            return raised

    def _digest(self, found: int | Exception) -> bool:
        """Draw the conclusions from what was fetched."""
        if isinstance(found, Exception):
            self._on_fatal(found)
        for batch in self._batches:
            batch.collect()
        now = self._clock.monotonic()
        failed = next((batch for batch in self._batches if batch.failed), None)
        if failed is not None:
            self._on_failed(failed)
        elif self._fatal is not None and (not self._lonely or self._fatal[1] <= now):
            self.finish(self._fatal[0])
        elif any(batch.deadline <= now for batch in self._batches):
            self.suspicious = True
            for batch in self._batches:
                if batch.deadline <= now:
                    self.blamed |= batch.topics_of(batch.open)
            self.finish(BrokerError("Kafka has not answered within the deadline."))
        self._batches = [batch for batch in self._batches if batch.open]
        return found != 0

    @property
    def _lonely(self) -> bool:
        return len(self._batches) == 1 and self._batches[0].lonely

    def _on_failed(self, batch: Batch) -> None:
        message_id, error = batch.failed[0]
        self.blamed |= batch.topics_of(message_id for message_id, _ in batch.failed)
        if batch.lonely and message_id in batch.open and error.code() in PERMANENT:
            batch.tell(message_id, Outcome(Verdict.REJECTED, PublishRejected(f"Kafka refused it. {describe(error)}")))
        self.finish(BrokerError(f"Kafka failed. {describe(error)}"), error)

    def _on_fatal(self, raised: Exception) -> None:
        why = describe(error_of(raised)) if isinstance(raised, KafkaException) else repr(raised)
        # The reason why a message alone was refused is in its own report, which follows.
        until = self._clock.monotonic() + _REASON_WITHIN if isinstance(raised, KafkaException) else 0.0
        self._fatal = self._fatal or (BrokerError(f"Kafka's producer is finished. {why}"), until)

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
        try:
            producer.poll(0.1)
        except Exception as raised:  # noqa: BLE001 - a finished producer repeats why it is
            logger.debug("a finished producer says: %r", raised)
