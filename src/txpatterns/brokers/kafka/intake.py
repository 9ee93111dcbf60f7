"""The application's side of a subscription: records become deliveries, and come again when asked for."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from txpatterns.brokers.kafka.consumer import ConsumerThread, Records
from txpatterns.brokers.kafka.progress import Progress
from txpatterns.brokers.kafka.wire import from_kafka
from txpatterns.clock import Clock
from txpatterns.errors import BrokerUnavailable
from txpatterns.messages import Message

_BATCH = 100
_TELL_AFTER = 200


class Intake:
    """Takes records over from the thread and hands them out, in order per partition."""

    def __init__(self, consumer: ConsumerThread, clock: Clock) -> None:
        self._consumer = consumer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ready: deque[KafkaDelivery] = deque()
        self._came: deque[tuple[Progress[KafkaDelivery], list[KafkaDelivery]]] = deque()
        self._news = asyncio.Event()
        self._acknowledged = 0
        self._ended = False
        self._failure: Exception | None = None
        self._delays: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(
            target=consumer.run, args=(self._arrived, self._finished), name="txp-kafka-consumer", daemon=True
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    async def stop(self) -> None:
        """Leave the group; what is not acknowledged comes again, here or to another member."""
        self._consumer.stop()
        for task in self._delays:
            task.cancel()
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

    def acknowledge(self, progress: Progress[KafkaDelivery], offset: int) -> None:
        """The application is done with a record."""
        progress.acknowledge(offset)
        self._acknowledged += 1
        if self._acknowledged >= _TELL_AFTER:  # waking the thread for each one would cost more than handling it
            self._tell_thread()

    def _tell_thread(self) -> None:
        self._acknowledged = 0
        self._consumer.acknowledged.set()

    def again(self, delivery: KafkaDelivery, delay: timedelta | None) -> None:
        """Hand a record out again, after the delay, and nothing that follows it in its partition before that."""
        delivery.progress.waits += 1
        delivery.progress.held.append(KafkaDelivery(self, delivery.progress, delivery.offset, delivery.message, True))
        task = self._loop.create_task(self._wait(delivery.progress, delay))
        self._delays.add(task)
        task.add_done_callback(self._delays.discard)

    async def _wait(self, progress: Progress[KafkaDelivery], delay: timedelta | None) -> None:
        if delay:
            await self._clock.wait(asyncio.Event(), delay)
        progress.waits -= 1
        if not progress.waits:
            held, progress.held = progress.held, []
            self._ready.extendleft(sorted(held, key=lambda each: each.offset, reverse=True))
            self._news.set()

    def _next(self) -> Sequence[KafkaDelivery]:
        while self._ready or self._came:
            if self._ready:
                delivery = self._ready.popleft()
                batch = self._hand_out(delivery.progress, [delivery])
            else:
                progress, run = self._came.popleft()
                if len(run) > _BATCH:
                    self._came.appendleft((progress, run[_BATCH:]))
                batch = self._hand_out(progress, run[:_BATCH])
            if batch:
                return batch
        return ()

    def _hand_out(self, progress: Progress[KafkaDelivery], batch: Sequence[KafkaDelivery]) -> Sequence[KafkaDelivery]:
        if progress.lost:
            return ()  # another member has them
        if progress.waits:
            progress.held.extend(batch)
            return ()
        progress.handed_out = max(progress.handed_out, batch[-1].offset)
        return batch

    # These two run in the thread.

    def _arrived(self, records: Records) -> None:
        for progress, run in records:
            deliveries = []
            run.reverse()
            while run:  # let go of one by one: each keeps a list of its headers, which adds up for the collector
                record = run.pop()
                deliveries.append(KafkaDelivery(self, progress, record.offset() or 0, from_kafka(record), False))
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

    __slots__ = ("_intake", "_settled", "message", "offset", "progress", "redelivered")

    def __init__(
        self, intake: Intake, progress: Progress[KafkaDelivery], offset: int, message: Message, redelivered: bool
    ) -> None:
        self._intake = intake
        self._settled = False
        self.progress = progress
        self.offset = offset
        self.message = message
        self.redelivered = redelivered
        """Whether this subscription asked for it again; Kafka itself does not say so of others."""

    async def ack(self) -> None:
        """Count it as done; it is committed with the next commit, once all before it in its partition are done."""
        if not self._settled:
            self._settled = True
            self._intake.acknowledge(self.progress, self.offset)

    async def nack(self, *, delay: timedelta | None = None) -> None:
        """Ask for it again after the delay. The rest of its partition waits for it."""
        if not (self._settled or self.progress.lost):
            self._settled = True
            self._intake.again(self, delay)
