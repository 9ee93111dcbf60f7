"""The consumer: takes messages from the broker and runs their handlers, each effect once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import overload

from sqlalchemy.ext.asyncio import AsyncEngine

from txpatterns.coordination import Hearing
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, HandlerDefinitionError
from txpatterns.execution import Execution
from txpatterns.hooks import HookList, Hooks
from txpatterns.inbox.consuming import Consuming
from txpatterns.inbox.handlers import E, Handler, Handlers, On, OnBatch, Options
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.inbox.signatures import AnyHandler, name_of
from txpatterns.outbox.emitting import Emitter
from txpatterns.retries import FailureRules, RetryLadder
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.runtime.outages import Outages
from txpatterns.serialization import EventRegistry
from txpatterns.transport import Subscriber


class Consumer:
    """Runs handlers for the messages of a group, beside any number of other processes that do the same.

    A handler's writes, its record in the inbox and what it emits commit together: its effect happens once for each
    message, though the handler may run more than once. Messages of one topic and key are handled in order; a failing
    one is tried again by its topic's ladder, timed in the database, and ends as a dead letter.

    It may run any number of times, one after the other and in any event loop, with the handlers it was given.
    """

    def __init__(
        self,
        database: Database,
        broker: Subscriber,
        registry: EventRegistry,
        *,
        group: str,
        emitter: Emitter | None = None,
        hooks: HookList | Hooks | None = None,
        settings: ConsumerSettings | None = None,
    ) -> None:
        self.database = database
        self.broker = broker
        self.registry = registry
        self.settings = settings or ConsumerSettings()
        self.handlers = Handlers(group)
        self.handlers.on_add.append(self._accept)
        self.inbox = Inbox(database)
        self._emitter = emitter
        self._hooks = HookList.of(hooks)
        self._consuming = self._make_consuming()
        self._runs = False
        forget_after_fork(self)

    @overload
    def on(
        self,
        event: type[E],
        *,
        batch: None = None,
        name: str | None = None,
        permanent: Sequence[type[BaseException]] = (),
        retries: Mapping[type[Exception], RetryLadder] | None = None,
        timeout: timedelta | None = None,
    ) -> On[E]: ...
    @overload
    def on(
        self,
        event: type[E],
        *,
        batch: int,
        name: str | None = None,
        permanent: Sequence[type[BaseException]] = (),
        retries: Mapping[type[Exception], RetryLadder] | None = None,
        timeout: timedelta | None = None,
    ) -> OnBatch[E]: ...
    def on(
        self,
        event: type[E],
        *,
        batch: int | None = None,
        name: str | None = None,
        permanent: Sequence[type[BaseException]] = (),
        retries: Mapping[type[Exception], RetryLadder] | None = None,
        timeout: timedelta | None = None,
    ) -> On[E] | OnBatch[E]:
        """Register, as a decorator, a handler for an event.

        ``name`` is its identity in the inbox, the function's own name if left out; ``permanent`` errors make a dead
        letter at once, and ``retries`` gives other waits for some errors. ``timeout`` is how long it may take, where
        that is not what the settings say.

        ``batch`` lets it handle up to so many events at once, from 2 to 1000: it takes a list of them and a
        ``BatchTransaction``, or as a ``def`` a ``SyncBatchTransaction``, and is called for what is there, without
        waiting for more. Those of one key are in their order. All effects of a batch commit together, each once. A
        batch that fails is halved until a message fails alone: that is its first attempt, and it costs the others
        none. Later attempts are made alone.

        Raises:
            HandlerDefinitionError: the function does not fit the event or the database, or the consumer runs.
        """
        options = Options(FailureRules.of(permanent, retries or {}), timeout, batch)

        def keep(function: AnyHandler) -> None:
            self.handlers.add(event, function, name=name, options=options)

        return On(keep) if batch is None else OnBatch(keep)

    @property
    def in_flight(self) -> int:
        """How many messages this process holds: from the broker and not acknowledged, or in a further attempt."""
        return self._consuming.in_flight

    def attention(self) -> list[str]:
        """Say in words what a person should look at: what is waited for, what cannot be read, what runs for long."""
        return self._consuming.attention()

    def held_up_since(self) -> float:
        """Since when handlers, or what is due again, cannot run, by the monotonic clock; infinity while they can."""
        return self._consuming.held_up_since()

    def check(self) -> None:
        """Refuse what would fail or be unsafe at run time; ``run`` does it first.

        Raises:
            UnsafeSettings: the retention is too short, or there are more handlers at a time than connections.
            MissingExtra: a ``def`` handler has no driver to run on.
            NotTransactional: the engine is set to AUTOCOMMIT, so no effect would commit together with its record.
        """
        self._consuming.check()

    async def run(self) -> None:
        """Handle messages until ``stop`` is called, or until cancelled.

        Outages of the database or the broker are waited out. What a cancellation interrupts is rolled back and comes
        again; a ``def`` handler, which cannot be interrupted, goes on in its thread, and what it commits then counts.

        Raises:
            ConfigurationError: there are no handlers, or it runs already.
        """
        if self._runs:
            raise ConfigurationError("This consumer runs already.", fix="One run() at a time for each Consumer.")
        self.check()
        if not self.handlers.topics:
            raise ConfigurationError("This consumer has no handlers.", fix="Register one with on(Event).")
        consuming, self._runs = self._consuming, True
        try:
            with self.handlers.in_use():
                await consuming.run()
        finally:
            if consuming is self._consuming:
                self._renew()

    def listen(self, listener: Hearing) -> None:
        """Be woken by what other processes do, in the next ``run``.

        While that is known to arrive, it looks for further attempts five times as seldom: for those that it knows of
        itself it sleeps until they are due.
        """
        self._consuming.due_attempts.listen(listener)

    def stop(self) -> None:
        """End the intake; ``run`` returns when the handlers that run have ended, or after ``stop_within``."""
        self._consuming.stop()

    async def retry_due(self) -> int:
        """Make the further attempts that are due now and wait for them; says how many messages that were.

        One pass: what became due through it needs another. Works with and without ``run``.
        """
        self.check()
        with self.handlers.in_use():
            return await self._consuming.due_attempts.make_due()

    async def caught_up(self, moment: datetime | None = None) -> bool:
        """Wait until the further attempts that are due now, or were at this moment, have been made, while this runs.

        Says whether there were any.
        """
        return await self._consuming.due_attempts.caught_up(moment)

    def after_fork(self) -> None:
        """Forget the parent's tasks: in a forked child nothing runs yet."""
        self._renew()

    def _renew(self) -> None:
        self._consuming, self._runs = self._make_consuming(), False

    def _accept(self, handler: Handler) -> None:
        """Refuse a handler that cannot run on this database, and make its event known."""
        if handler.is_async and not isinstance(self.database.engine, AsyncEngine):
            raise HandlerDefinitionError(
                f"{name_of(handler.call)} is async def, but the database was given as an Engine, or by a URL, that "
                "blocks.",
                fix="Write it as def with SyncTransaction, or give an AsyncEngine or an asynchronous URL: "
                "sqlite+aiosqlite:///orders.db, postgresql+asyncpg://user@host/name.",
            )
        self.registry.register(handler.event)

    def _make_consuming(self) -> Consuming:
        stopping, group = asyncio.Event(), self.handlers.group
        processing = Processing(
            self.database,
            self.registry,
            self.handlers,
            self.settings,
            self._hooks,
            Execution(self.database),
            self._emitter,
            Outages(self.database.clock, f"{group}: handlers", stopping),
            Outages(self.database.clock, f"{group}: def handlers", stopping),
        )
        return Consuming(self.broker, processing)
