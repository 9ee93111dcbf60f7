"""The consumer: takes messages from the broker and runs their handlers, each effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any

from txpatterns.database import Database, Leases
from txpatterns.database.engines import is_autocommit, sync_side
from txpatterns.database.finishing import finish
from txpatterns.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    HandlerDefinitionError,
    NotTransactional,
)
from txpatterns.execution import Execution
from txpatterns.hooks import HookList, Hooks
from txpatterns.inbox.deliveries import Deliveries
from txpatterns.inbox.handlers import E, Handler, Handlers, On, Options
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.lanes import Lanes
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.retries import Retries
from txpatterns.inbox.settings import ConsumerSettings, check_window, concurrency_for
from txpatterns.inbox.signatures import AnyHandler, name_of
from txpatterns.inbox.suspicion import Suspicion
from txpatterns.inbox.transaction import Emitter
from txpatterns.inbox.upkeep import Membership, keep_clean
from txpatterns.messages import Event
from txpatterns.retries import FailureRules, RetryLadder
from txpatterns.runtime.outages import Outages, Stopped
from txpatterns.serialization import EventRegistry
from txpatterns.transport import Delivery, Subscriber

_LASTING = timedelta(seconds=5)
"""How long a subscription without messages lasts before it is taken for one that works; longer than any pause."""


class Consumer:
    """Runs handlers for the messages of a group, beside any number of other processes that do the same.

    A handler's writes, its record in the inbox and what it emits commit together: its effect happens once for each
    message, though the handler may run more than once. Messages of one topic and key are handled in order; a failing
    one is tried again by its topic's ladder, timed in the database, and ends as a dead letter.
    """

    def __init__(
        self,
        database: Database,
        broker: Subscriber,
        registry: EventRegistry,
        *,
        group: str,
        emitter: Emitter | None = None,
        hooks: Hooks | None = None,
        settings: ConsumerSettings | None = None,
    ) -> None:
        self.database = database
        self.broker = broker
        self.settings = settings or ConsumerSettings()
        self.handlers = Handlers(group)
        self.inbox = Inbox(database)
        self._hooks = HookList.of(hooks)
        self._stopping = asyncio.Event()
        self._execution = Execution(database)
        self._suspicion = Suspicion()
        self._outages = Outages(database.clock, group, self._stopping)
        self._intake = Outages(database.clock, f"{group}: intake", self._stopping)
        self._processing = Processing(
            database,
            registry,
            self.handlers,
            self.settings,
            self._hooks,
            self._execution,
            emitter,
            Outages(database.clock, f"{group}: handlers", self._stopping),
            Outages(database.clock, f"{group}: def handlers", self._stopping),
        )
        self._retries = Retries(self._processing, self.settings.retry_interval, self._outages)
        deliveries = Deliveries(self._processing, self._retries, self._suspicion)
        self._lanes = Lanes(
            lambda delivery: self._processing.outages.insist(partial(deliveries.handle, delivery)),
            max_in_flight=self.settings.max_in_flight,
            max_bytes=self.settings.max_bytes,
            stopping=self._stopping,
        )
        self._prepared = False
        self._active = False

    def on(
        self,
        event: type[E],
        *,
        name: str | None = None,
        permanent: Sequence[type[BaseException]] = (),
        retries: Mapping[type[Exception], RetryLadder] | None = None,
        timeout: timedelta | None = None,
    ) -> On[E]:
        """Register, as a decorator, a handler for an event.

        ``name`` is its identity in the inbox, the function's own name if left out; ``permanent`` errors make a dead
        letter at once, and ``retries`` gives other waits for some errors. ``timeout`` is how long it may take, where
        that is not what the settings say.

        Raises:
            HandlerDefinitionError: the function does not fit the event or the database, or the consumer runs.
        """
        options = Options(FailureRules.of(permanent, retries or {}), timeout)
        return On(lambda function: self._register(event, function, name, options))

    def take_over(self, handlers: Iterable[Handler]) -> None:
        """Register the handlers of another consumer of this group."""
        for handler in handlers:
            name = handler.consumer.removeprefix(f"{self.handlers.group}.")
            self._register(handler.event, handler.call, name, handler.options)

    def _register(self, event: type[Event], function: AnyHandler, name: str | None, options: Options) -> None:
        if self._active:
            raise HandlerDefinitionError(
                f"{name or name_of(function)} is registered while the consumer runs, so it would receive nothing.",
                fix="Register all handlers first: import their modules before the consumer starts.",
            )
        handler = self.handlers.make(event, function, name=name, options=options)
        if handler.is_async and not self._execution.can_await:
            raise HandlerDefinitionError(
                f"{name_of(function)} is async def, but the database was given as an Engine, or by a URL, that blocks.",
                fix="Write it as def with SyncTransaction, or give an AsyncEngine or an asynchronous URL: "
                "sqlite+aiosqlite:///orders.db, postgresql+asyncpg://user@host/name.",
            )
        self._processing.registry.register(event)
        self.handlers.keep(handler)
        self._prepared = False

    @property
    def in_flight(self) -> int:
        """How many messages this process holds: from the broker and not acknowledged, or in a further attempt."""
        return self._lanes.in_flight + self._retries.in_flight

    def attention(self) -> list[str]:
        """Say in words what a person should look at: what is waited for, what cannot be read, what runs for long."""
        outages = (self._intake.told(), self._processing.outages.told(), self._processing.plain_outages.told())
        unread: Mapping[str, Exception] = getattr(self.broker, "unread", {})
        topics = [f"the topic {topic} cannot be read" for topic in self.handlers.topics if topic in unread]
        return [*filter(None, outages), *topics, *self._execution.underway.long()]

    def held_up_since(self) -> float:
        """Since when handlers cannot run, by the monotonic clock; infinity while they can."""
        found = (self._processing.outages.since, self._processing.plain_outages.since)
        return min((since for since in found if since is not None), default=inf)

    def check(self) -> None:
        """Refuse what would fail or be unsafe at run time; ``run`` does it first.

        Raises:
            UnsafeSettings: the retention is too short, or there are more handlers at a time than connections.
            MissingExtra: a ``def`` handler has no driver to run on.
            NotTransactional: the engine is set to AUTOCOMMIT, so no effect would commit together with its record.
        """
        if self._prepared:
            return
        check_window(self.settings, self.handlers)
        engines = []
        if any(handler.is_async for handler in self.handlers):
            engines.append(sync_side(self.database.engine))
        has_plain = any(not handler.is_async for handler in self.handlers)
        if has_plain:
            engines.append(self.database.sync_engine)
        if any(map(is_autocommit, engines)):
            raise NotTransactional
        concurrency = concurrency_for(self.settings, is_sqlite=self.database.is_sqlite, engines=engines)
        if has_plain:
            self._execution.prepare_threads()
        self._processing.slots = asyncio.Semaphore(concurrency)
        self._prepared = True

    async def run(self) -> None:
        """Handle messages until ``stop`` is called, or until cancelled.

        Outages of the database or the broker are waited out. What a cancellation interrupts is rolled back and comes
        again; a ``def`` handler, which cannot be interrupted, goes on in its thread, and what it commits then counts.
        """
        self.check()
        if not self.handlers.topics:
            raise ConfigurationError("This consumer has no handlers.", fix="Register one with on(Event).")
        self._stopping.clear()
        self._active = True
        leases = Leases(self.database, f"consumer:{self.handlers.group}", slots=0, ttl=self.settings.lease_ttl)
        membership = Membership(leases, self._suspicion)
        clock = self.database.clock
        tasks: list[asyncio.Task[None]] = []
        try:
            with suppress(Stopped):
                await self._outages.insist(membership.join)
                clean = partial(keep_clean, self.inbox, self.settings.retention, clock, self._stopping)
                keep = partial(membership.keep, clock, self._stopping)
                watch = partial(self._execution.underway.watch, self._stopping)
                works: dict[str, Callable[[], Awaitable[None]]]
                works = {"membership": keep, "retries": self._retries.work, "cleaning": clean, "handlers": watch}
                for name, work in works.items():
                    tasks.append(asyncio.create_task(self._supervise(work), name=f"consumer {name}"))
                await self._intake.insist(self._take_in)
                await self._retries.finished()
        finally:
            self._active = False
            await finish(self._end(tasks, membership))

    def stop(self) -> None:
        """End the intake; ``run`` returns when the handlers that run have ended, or after ``stop_within``."""
        self._stopping.set()
        self._lanes.wake()
        self._retries.wake()

    async def retry_due(self) -> int:
        """Make the further attempts that are due now and wait for them; says how many messages that were.

        One pass: what became due through it needs another. Works with and without ``run``.
        """
        self.check()
        return await self._retries.make_due()

    async def caught_up(self) -> None:
        """Wait until the further attempts that are due at this moment have been made, while this runs."""
        await self._retries.caught_up()

    async def _supervise(self, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(Stopped):
            await self._outages.insist(work)

    async def _take_in(self) -> None:
        topics, group = self.handlers.topics, self.handlers.group
        try:
            async with self.broker.subscribe(topics, group=group) as batches, self._settling():
                iterator = aiter(batches)
                while (batch := await self._next(iterator)) is not None:
                    self._intake.fine()
                    for delivery in batch:
                        await self._lanes.put(delivery)
                await self._drain()
        except BrokerError as error:
            self._hooks.broker_unavailable(error)
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
        broken = asyncio.ensure_future(self._lanes.broken.wait())
        waits: set[asyncio.Future[Any]] = {coming, stopped, broken}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return None
            if broken.done():
                self._lanes.broken.clear()
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
        self._lanes.close_intake()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.stop_within.total_seconds()):
                await self._lanes.drained()
                await self._retries.finished()
        await self._lanes.cancel()
        await self._retries.cancel()

    async def _end(self, tasks: list[asyncio.Task[None]], membership: Membership) -> None:
        """Leave nothing behind that still runs, nor a membership that looks like a death.

        Unless it is one: cut off while handlers ran, by a SystemExit in a task of theirs for example, the next process
        counts the attempt before it makes it again.
        """
        cut_off = self.in_flight > 0
        for task in tasks:
            task.cancel()
        await self._lanes.cancel()
        await self._retries.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not cut_off:
            with suppress(Exception):  # when the database is away, the lease runs out by itself
                await membership.leave()
