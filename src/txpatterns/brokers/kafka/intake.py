"""The application's side of a subscription: records become deliveries, and come again when asked for."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence

from txpatterns.brokers.kafka.consumer import ConsumerThread, Records
from txpatterns.brokers.kafka.progress import Progress
from txpatterns.brokers.kafka.wire import from_kafka
from txpatterns.errors import BrokerUnavailable
from txpatterns.messages import Message

_BATCH = 100
_TELL_AFTER = 200


class Intake:
    """Takes records over from the thread and hands them out, in order per partition."""

    def __init__(self, consumer: ConsumerThread) -> None:
        self._consumer = consumer
        self._loop = asyncio.get_running_loop()
        self._came: deque[tuple[Progress, list[KafkaDelivery]]] = deque()
        self._news = asyncio.Event()
        self._acknowledged = 0
        self._ended = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(
            target=consumer.run, args=(self._arrived, self._finished), name="txp-kafka-consumer", daemon=True
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    async def stop(self) -> None:
        """Leave the group; what is not acknowledged comes again, here or to another member."""
        self._consumer.stop()
        await asyncio.shield(asyncio.to_thread(self._thread.join))

    async def batches(self) -> AsyncIterator[Sequence[KafkaDelivery]]:
        """Yield deliveries as they come, until the subscription is left.

        Raises:
            BrokerUnavailable: the driver gave up; subscribe again.
        """
        while True:
            batch = self._next()
            if batch:
                yield batch
            elif self._ended:
                if self._failure is not None:
                    raise BrokerUnavailable(f"Kafka's consumer has ended: {self._failure}") from self._failure
                return
            else:
                self._tell_thread()
                self._news.clear()
                await self._news.wait()

    def acknowledge(self, progress: Progress, offset: int) -> None:
        """The application is done with a record."""
        progress.acknowledge(offset)
        self._acknowledged += 1
        if self._acknowledged >= _TELL_AFTER:  # waking the thread for each one would cost more than handling it
            self._tell_thread()

    def _tell_thread(self) -> None:
        self._acknowledged = 0
        self._consumer.acknowledged.set()

    def _next(self) -> Sequence[KafkaDelivery]:
        while self._came:
            progress, run = self._came.popleft()
            if progress.lost:
                continue  # another member has them
            if len(run) > _BATCH:
                self._came.appendleft((progress, run[_BATCH:]))
                run = run[:_BATCH]
            progress.handed_out = max(progress.handed_out, run[-1].offset)
            return run
        return ()

    # These two run in the thread.

    def _arrived(self, records: Records) -> None:
        for progress, run in records:
            deliveries = []
            run.reverse()
            while run:  # let go of one by one: each keeps a list of its headers, which adds up for the collector
                record = run.pop()
                deliveries.append(KafkaDelivery(self, progress, record.offset() or 0, from_kafka(record)))
            self._came.append((progress, deliveries))
        self._tell()

    def _finished(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)


class KafkaDelivery:
    """One record for this member of the group."""

    __slots__ = ("_intake", "_settled", "message", "offset", "progress")
    redelivered = False
    """Kafka does not say so."""

    def __init__(self, intake: Intake, progress: Progress, offset: int, message: Message) -> None:
        self._intake = intake
        self._settled = False
        self.progress = progress
        self.offset = offset
        self.message = message

    async def ack(self) -> None:
        """Count it as done; it is committed with the next commit, once all before it in its partition are done."""
        if not self._settled:
            self._settled = True
            self._intake.acknowledge(self.progress, self.offset)
