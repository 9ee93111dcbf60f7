"""One run of a consumer, from joining its group to leaving it: what it takes in, what it handles, what it repeats.

It belongs to the event loop that it runs in, so each run has its own; what lasts is the `Consumer` and its handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from txpatterns.coordination import Leases, Membership
from txpatterns.database.engines import is_autocommit, sync_side
from txpatterns.database.finishing import finish
from txpatterns.errors import BrokerError, BrokerUnavailable, NotTransactional
from txpatterns.inbox.batches import Batches
from txpatterns.inbox.deliveries import Deliveries
from txpatterns.inbox.due_attempts import DueAttempts
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.lanes import Lanes
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.runs import Runs
from txpatterns.inbox.settings import check_window, concurrency_for
from txpatterns.inbox.suspicion import Suspicion
from txpatterns.inbox.upkeep import keep_clean
from txpatterns.runtime.moments import CONSUMER, BrokerAway
from txpatterns.runtime.outages import Outages, Stopped
from txpatterns.transport import Delivery, Subscriber

_LASTING = timedelta(seconds=5)
"""How long a subscription without messages lasts before it is taken for one that works; longer than any pause."""


class Consuming:
    """The state of a consumer while it runs, and the tasks that do its work."""

    def __init__(self, broker: Subscriber, processing: Processing) -> None:
        self.processing = processing
        self._broker = broker
        self._settings = processing.settings
        self._stopping = processing.outages.stopping
        self._suspicion = Suspicion()
        self._outages = self._outages_named("")
        self._intake = self._outages_named(": intake")
        self.due_attempts = DueAttempts(processing, self._settings.retry_interval, self._outages)
        self.deliveries = Deliveries(processing, self.due_attempts, self._suspicion)
        self.batches = Batches(processing)
        self.runs = Runs(processing, self.deliveries, self.batches)
        self.lanes = Lanes(
            self.runs.begin,
            max_in_flight=self._settings.max_in_flight,
            max_bytes=self._settings.max_bytes,
            stopping=self._stopping,
        )
        self._checked = 0
        self._concurrency = 1

    @property
    def in_flight(self) -> int:
        """How many messages this process holds: from the broker and not acknowledged, or in a further attempt."""
        return self.lanes.in_flight + self.due_attempts.in_flight

    def attention(self) -> list[str]:
        """Say in words what a person should look at: what is waited for, what cannot be read, what runs for long."""
        processing = self.processing
        outages = (self._intake, self._outages, processing.outages, processing.plain_outages)
        waits = dict.fromkeys(outage.told() for outage in outages)
        unread: Mapping[str, Exception] = getattr(self._broker, "unread", {})
        topics = [f"the topic {topic} cannot be read" for topic in processing.handlers.topics if topic in unread]
        return [*filter(None, waits), *topics, *processing.execution.underway.long()]

    def held_up_since(self) -> float:
        """Since when handlers, or what is due again, cannot run, by the monotonic clock; infinity while they can.

        Handlers can not while all places are taken by some that do not end.
        """
        outages = (self._outages, self.processing.outages, self.processing.plain_outages)
        found = [outage.since for outage in outages if outage.since is not None]
        return min([*found, self.processing.execution.underway.over_limit_since(self._concurrency)])

    def check(self) -> None:
        """Refuse what would fail or be unsafe at run time; see ``Consumer.check``."""
        database, handlers = self.processing.database, list(self.processing.handlers)
        if handlers and self._checked == len(handlers):
            return
        check_window(self._settings, handlers)
        engines = []
        if any(handler.is_async for handler in handlers):
            engines.append(sync_side(database.engine))
        has_plain = any(not handler.is_async for handler in handlers)
        if has_plain:
            engines.append(database.sync_engine)
        if any(map(is_autocommit, engines)):
            raise NotTransactional
        concurrency = concurrency_for(self._settings, is_sqlite=database.is_sqlite, engines=engines)
        if has_plain:
            self.processing.execution.prepare_threads()
        self.processing.slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self.runs.at_once = self._suspicion.at_once = self.processing.handlers.largest_batch
        self._checked = len(handlers)

    async def run(self) -> None:
        """Handle messages until ``stop`` is called, or until cancelled; see ``Consumer.run``."""
        self._stopping.clear()
        database, group = self.processing.database, self.processing.handlers.group
        leases = Leases(database, f"consumer:{group}", slots=0, ttl=self._settings.lease_ttl)
        membership = Membership(leases, self._suspicion.hear)
        tasks: list[asyncio.Task[None]] = []
        try:
            with suppress(Stopped):
                await self._outages.insist(membership.join)
                for name, work in self._works(membership).items():
                    tasks.append(asyncio.create_task(self._supervise(work), name=f"consumer {name}"))
                await self._intake.insist(self._take_in)
                await self.due_attempts.finished()
        finally:
            await finish(self._end(tasks, membership))

    def stop(self) -> None:
        """End the intake; ``run`` returns when the handlers that run have ended, or after ``stop_within``."""
        self._stopping.set()
        self.lanes.wake()
        self.due_attempts.wake()

    def _outages_named(self, suffix: str) -> Outages:
        processing = self.processing
        return Outages(processing.database.clock, f"{processing.handlers.group}{suffix}", self._stopping)

    def _works(self, membership: Membership) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Give what runs beside the intake, by name."""
        clock, stopping = self.processing.database.clock, self._stopping
        inbox = Inbox(self.processing.database)
        return {
            "membership": partial(membership.keep, clock, stopping),
            "retries": self.due_attempts.work,
            "cleaning": partial(keep_clean, inbox, self._settings.retention, clock, stopping),
            "handlers": partial(self.processing.execution.underway.watch, stopping),
        }

    async def _supervise(self, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(Stopped):
            await self._outages.insist(work)

    async def _take_in(self) -> None:
        topics, group = self.processing.handlers.topics, self.processing.handlers.group
        try:
            async with self._broker.subscribe(topics, group=group) as batches, self._settling():
                iterator = aiter(batches)
                while (batch := await self._next(iterator)) is not None:
                    self._intake.fine()
                    for delivery in batch:
                        await self.lanes.put(delivery)
                await self._drain()
        except BrokerError as error:
            self.processing.hooks.tell(BrokerAway(CONSUMER, error))
            raise

    @asynccontextmanager
    async def _settling(self) -> AsyncIterator[None]:
        """Take a subscription that lasts for one that works: brokers may open one, and refuse it only then."""
        lasting = asyncio.get_running_loop().call_later(_LASTING.total_seconds(), self._intake.fine)
        try:
            yield
        finally:
            lasting.cancel()

    async def _next(self, batches: AsyncIterator[Sequence[Delivery]]) -> Sequence[Delivery] | None:
        """Give the next batch, or None when the consumer stops."""
        coming = asyncio.ensure_future(anext(batches, None))
        stopped = asyncio.ensure_future(self._stopping.wait())
        broken = asyncio.ensure_future(self.lanes.broken.wait())
        waits: set[asyncio.Future[Any]] = {coming, stopped, broken}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return None
            if broken.done():
                self.lanes.broken.clear()
                raise BrokerUnavailable("A lane has ended, and what it had is to be given out again.")
            batch = coming.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        if batch is None:
            raise BrokerUnavailable("The subscription ended by itself.")
        return batch

    async def _drain(self) -> None:
        """Let what runs come to its end, within the deadline, while its acknowledgements still count."""
        self.lanes.close_intake()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stop_within.total_seconds()):
                await self.lanes.drained()
                await self.due_attempts.finished()
        await self._cancel()

    async def _cancel(self) -> None:
        await self.lanes.cancel()
        await self.batches.cancel()
        await self.due_attempts.cancel()

    async def _end(self, tasks: list[asyncio.Task[None]], membership: Membership) -> None:
        """Leave nothing behind that still runs, nor a membership that looks like a death.

        Unless it is one: cut off while handlers ran, by a SystemExit in a task of theirs for example, the next process
        counts the attempt before it makes it again.
        """
        cut_off = self.in_flight > 0
        for task in tasks:
            task.cancel()
        await self._cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not cut_off:
            with suppress(Exception):  # when the database is away, the lease runs out by itself
                await membership.leave()
