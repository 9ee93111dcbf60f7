"""App: wires the parts together. The only place that knows all of them; there is no global state."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, Self, Unpack, overload

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.brokers import given_broker
from txpatterns.database import Database, attach
from txpatterns.database.engines import WRITES, AnyEngine
from txpatterns.database.schema import attached_schema
from txpatterns.database.sessions import writing_connection
from txpatterns.database.setup import create_missing, verify
from txpatterns.errors import ConfigurationError, SagaDefinitionError
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers
from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.handlers import E, Handler, On, OnBatch
from txpatterns.messages import Event, describe
from txpatterns.outbox import Outbox
from txpatterns.parts import PartChoice, Parts
from txpatterns.retries import FailurePolicies, RetryLadder, check_kind
from txpatterns.runtime import Health, Worker
from txpatterns.runtime.loggers import enable_loggers
from txpatterns.runtime.pulse import Pulse
from txpatterns.runtime.signals import stop_on_signals
from txpatterns.sagas.definitions import Definitions, Options, SagaFunction, errors_of
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.hearing import hear
from txpatterns.sagas.sagas import Sagas
from txpatterns.sagas.schema import SAGA_TABLES
from txpatterns.sagas.signals import Signal, signals_of
from txpatterns.serialization import EventRegistry
from txpatterns.serialization.registry import Upcaster
from txpatterns.settings import BROKER_URL, DATABASE_URL, AppOptions, AppSettings, from_environment, source_of
from txpatterns.tcc.coordinator import TccCoordinator
from txpatterns.tcc.schema import TCC_TABLES
from txpatterns.tcc.tcc import Tcc
from txpatterns.telemetry.failures import FailureLog
from txpatterns.text import masked
from txpatterns.transport import Broker, check_order, declare

logger = logging.getLogger("txpatterns.app")


class App:
    """One application: its database, its broker, its events and handlers, and the background parts.

    ``name`` is the consumer group: every process of the application has the same, and each message is handled by
    one of them. ``database`` is a URL, an ``Engine``, an ``AsyncEngine`` or a ``Database``, which takes sessionmakers
    and a second engine, too; ``broker`` a URL or a broker object. Left out, they come from ``TXP_DATABASE_URL`` and
    ``TXP_BROKER_URL``, and without those are a SQLite file and the broker inside this process.

    ``metadata`` is your own: the library's tables join it, so that your migrations make them, and on SQLite what is
    missing of it is made at the start. ``policies`` say what happens to a topic's failures, in sending and in
    handling. ``hooks`` are told what happens. ``codec`` turns events into bytes and back; it is the envelope's if
    left out.

    Nothing is connected before it is used.
    """

    def __init__(
        self,
        name: str,
        database: Database | AnyEngine | URL | str | None = None,
        broker: Broker | str | None = None,
        **options: Unpack[AppOptions],
    ) -> None:
        unknown = options.keys() - AppOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"App() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
        metadata = options.get("metadata")
        self.name = _group(name)
        self.settings = options.get("settings") or AppSettings.from_environment()
        self.policies = options.get("policies") or FailurePolicies()
        check_kind(FailurePolicies, self.policies)
        self.sources = {"database": source_of(database, DATABASE_URL), "broker": source_of(broker, BROKER_URL)}
        """Where each of the two came from: ``constructor``, ``environment`` or ``default``."""
        database = from_environment(DATABASE_URL, f"sqlite+aiosqlite:///{name}.db") if database is None else database
        broker = from_environment(BROKER_URL, "memory://") if broker is None else broker
        self.database = database if isinstance(database, Database) else self._make_database(database)
        self.metadata = metadata
        if metadata is not None:
            self.database.home.declare(attached_schema(attach(metadata, self.settings.schema)))
        self.settings.refuse_unlike(self.database)
        self.broker = given_broker(broker, self.database)
        self.broker_name = masked(broker) if isinstance(broker, str) else type(broker).__name__
        self.hooks = Pulse(self.database.clock, options.get("hooks") or (), log=FailureLog())
        self.registry = EventRegistry(options.get("codec"))
        self._parts = Parts(name, self.database, self.broker, self.settings, self.policies, self.hooks)
        self.outbox = Outbox(
            self.database,
            self.registry,
            hooks=self.hooks,
            max_payload=min(most := self.settings.max_payload, self.broker.capabilities.max_payload or most),
            ordered=self.broker.capabilities.ordered,
            on_commit=self._parts.committed,
        )
        self.consumer = self._make_consumer()
        self.consumer.handlers.on_add.append(self._declare)
        self.inbox = self.consumer.inbox
        parts, definitions = self._parts, Definitions(name, self.settings.sagas.build)
        self.sagas = Sagas(
            self.database, definitions, hooks=self.hooks, on_commit=parts.saga_committed, runner=lambda: parts.engine
        )
        self.tcc = Tcc(
            name, self.database, self.outbox, hooks=self.hooks, settings=self.settings.tcc, wake=parts.tcc_left
        )

    @cached_property
    def ids(self) -> SnowflakeGenerator:
        """Make 64-bit ids that are unique in the cluster: ``app.ids.next_id()``, from any thread.

        Name it before the App runs, as a column's default does: then the worker number is there from the start, and a
        background part keeps it. Otherwise a thread does, and the first id waits for it: take that outside of a
        transaction, for on SQLite the two would wait for each other.
        """
        self._parts.numbers = WorkerNumbers(self.database)
        return SnowflakeGenerator(self._parts.numbers)

    def session(self, **options: Any) -> AsyncSession:
        """Open an ``AsyncSession`` on the application's database: ``async with app.session() as s, s.begin():``.

        It comes from the sessionmaker of the `Database`, if that has one; otherwise objects stay readable after the
        commit. Closed, it is closed for good: a task that goes on with it gets an error. A session of your own making
        serves as well.

        Raises:
            ConfigurationError: the App was given a plain ``Engine``; use ``sync_session``.
        """
        return self.database.session(**options)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[AsyncSession]:
        """Open a session in a transaction that is going to write; it commits at the end of the block.

        On SQLite it takes the one writer's place at once. There, a transaction of ``session()`` that reads first and
        writes later fails as "database is locked" when anybody wrote in between; elsewhere the two are the same.
        """
        async with self.session(**options) as session, session.begin():
            await session.run_sync(writing_connection, execution_options={WRITES: True})
            yield session

    @contextmanager
    def sync_transaction(self, **options: Any) -> Iterator[Session]:
        """Do what ``transaction`` does, with a plain ``Session``."""
        with self.sync_session(**options) as session, session.begin():
            writing_connection(session, execution_options={WRITES: True})
            yield session

    def sync_session(self, **options: Any) -> Session:
        """Open a plain ``Session`` on the application's database, from any thread.

        Raises:
            MissingExtra: the App has an async driver, and the plain one for its database is not installed.
        """
        return self.database.sync_session(**options)

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

        It is an ``async def`` that takes the event and a ``Transaction``, or a ``def`` with a ``SyncTransaction``.
        What it writes to ``tx.session`` commits together with the record that it was done: once. ``name`` is its
        identity in the inbox, the function's own if left out. ``permanent`` errors make a dead letter at once;
        ``retries`` gives other waits for some errors. ``timeout`` is how long it may take, where that is not
        ``settings.consumer.handler_timeout``. What it returns is awaited, until nothing is left to await.

        With ``batch``, from 2 to 1000, it takes a list of up to so many events and a ``BatchTransaction``, or as a
        ``def`` a ``SyncBatchTransaction``, and handles what is there in one transaction; see ``Consumer.on``.

        Raises:
            HandlerDefinitionError: the function does not fit the event, or the App consumes already.
            UnsafeSettings: the event has ``order="strict"``, and the broker keeps no order.
        """
        on: Any = self.consumer.on
        decorator: On[E] | OnBatch[E] = on(
            event, batch=batch, name=name, permanent=permanent, retries=retries, timeout=timeout
        )
        return decorator

    def saga(
        self,
        name: str | None = None,
        *,
        version: int = 1,
        since: int = 1,
        signals: Sequence[type[Event] | Signal] = (),
        errors: Sequence[type[Exception]] = (),
        retry: RetryLadder | None = None,
        deadline: timedelta | None = None,
    ) -> Callable[[SagaFunction], SagaFunction]:
        """Register, as a decorator, the code of a saga: an ``async def`` that takes a ``SagaContext`` and arguments.

        A ``Saga``, which is a list of steps, is registered in the same way: ``app.saga()(checkout)``.

        ``name`` is the function's own if left out. ``version`` is that of what is started from now on; the function
        runs those from ``since`` on, too, and may branch on ``saga.version``. ``signals`` are the events that it may
        wait for: the App listens to their topics, and keeps them for sagas that will wait. ``errors`` are what steps
        and calls raise that the code is told at once, as it is. ``retry`` says how long to wait between the attempts of
        one that says nothing else. ``deadline`` is how long a saga may take from its start: one that has not come to
        its pivot by then is undone, wherever its code is; behind the pivot it goes on, and a person is told.

        Raises:
            SagaDefinitionError: the function is no saga, or another one serves the same version.
        """
        if callable(name):
            raise SagaDefinitionError(f"@app.saga stands before {name!r} without brackets.", fix="Write: @app.saga()")
        options = Options(version, since, errors_of(errors), signals_of(signals), retry or RetryLadder(), deadline)

        def register(function: SagaFunction) -> SagaFunction:
            definition = self.sagas.definitions.add(function, name, options)
            hear(definition.options.signals, self.sagas, self.consumer.handlers, self.database)
            return function

        return register

    def declare(self, group: str, *events: type[Event]) -> None:
        """Say that another application, ``App(group)`` in a process of its own, reads these events.

        Said before ``running``, it makes what is sent from here wait for that one, though it has never run: for brokers
        that give a new group only what comes later (RabbitMQ, SNS, ``database://``). On ``memory://``, it does nothing.

        Raises:
            ConfigurationError: it is no application's name, or none that the broker can have.
        """
        group = _group(group)
        if not self.broker.capabilities.confirms_handling:  # nobody outside can read there
            declare(self.broker, group, sorted({describe(event).topic for event in events}))

    def upcast(self, event: type[Event], *, from_version: str, to_version: str) -> Callable[[Upcaster], Upcaster]:
        """Register, as a decorator, how the fields of an old version become those of a newer one."""
        type_ = self.registry.register(event).type
        return self.registry.upcast(type_, from_version=from_version, to_version=to_version)

    async def prepare(self) -> list[str]:
        """Make sure that the tables are there and fit this version; ``running`` does it first.

        On SQLite what is missing is made, your own tables included when ``metadata`` was given; gives the names of
        what was made. A database that your own Alembic chain looks after, and every other kind, is only checked.

        Raises:
            SchemaError: tables are missing or too old; the text has the command that mends it.
        """
        enable_loggers()
        made: list[str] = []
        await self.database.locate()
        if self.database.is_sqlite:
            made = await self.database.transact(partial(create_missing, target=self.metadata))
        self.tcc.participants.check()
        needs = [
            *(SAGA_TABLES if self.sagas.definitions else ()),
            *(TCC_TABLES if self.tcc.participants else ()),
            *self._parts.tables,
        ]
        await self.database.transact(partial(verify, needs=needs))
        if made:
            logger.info("made the tables %s in %r", ", ".join(made), self.database)
        return made

    @asynccontextmanager
    async def running(self, **parts: Unpack[PartChoice]) -> AsyncIterator[Self]:
        """Run the background parts for as long as the block lasts: all, but those that are left out (``relay=False``).

        Leaving finishes what is under way, within ``settings.stop_within``, and hands the rest to other processes
        at once. What did not finish is done again later, by this process or another: nothing is lost.

        Raises:
            SchemaError: see ``prepare``.
            UnsafeSettings: these parts cannot be run apart from each other on this broker.
            ConfigurationError: this App runs in this process already.
        """
        self._parts.check(parts)
        make_engine = self._make_engine if self.sagas.definitions else None
        make_coordinator = partial(TccCoordinator, self.tcc) if self.tcc.participants else None
        async with self, self._parts.running(self.consumer, make_engine, make_coordinator, parts):
            with self.sagas.ends.told(here=make_engine is not None and parts.get("sagas", True)):
                yield self

    async def run(self, **parts: Unpack[PartChoice]) -> None:
        """Run the background parts until SIGTERM or SIGINT; a second signal ends the process at once."""
        with stop_on_signals() as stopping:
            async with self.running(**parts):
                await stopping.wait()

    def worker(self, **parts: Unpack[PartChoice]) -> Worker:
        """Give the background parts for a program without an event loop: ``with app.worker().in_thread():``."""
        return Worker(lambda: self.running(**parts))

    def health(self) -> Health:
        """Say how the background parts of this process are. Asks nobody; without any parts it is well."""
        return self._parts.health()

    async def drained(self) -> None:
        """Wait until everything committed before this call is published, or waits for a later time.

        With the broker inside this process: published and handled. Further attempts of handlers that are due now are
        made, where the consumer runs here. Only while ``running``.

        Raises:
            ConfigurationError: neither relay nor consumer runs here, or the relay stopped before that.
        """
        await self._parts.drained()

    async def close(self) -> None:
        """Close the connections that this App has opened; it opens new ones when it is used again."""
        await self._parts.close()
        await self.database.close()

    async def __aenter__(self) -> Self:
        """Make sure that the tables are there, as ``prepare`` does; leaving closes the connections."""
        try:
            await self.prepare()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _make_database(self, engine: AnyEngine | URL | str) -> Database:
        return Database(engine, schema=self.settings.schema, listen_url=self.settings.listen_url)

    def _make_consumer(self) -> Consumer:
        return Consumer(
            self.database,
            self.broker,
            self.registry,
            group=self.name,
            emitter=self.outbox,
            hooks=self.hooks,
            settings=self.settings.consumer_with(self.policies),
        )

    def _make_engine(self) -> SagaEngine:
        settings, definitions = self.settings.sagas, self.sagas.definitions
        hears_late = bool(definitions.signals()) and not self.broker.capabilities.confirms_handling
        return SagaEngine(
            self.database,
            definitions,
            self.outbox,
            hooks=self.hooks,
            settings=settings,
            ended=self.sagas.ends.tell,
            hears_late=hears_late,
        )

    def _declare(self, handler: Handler) -> None:
        """Let the broker keep what comes for a handler that does not run yet."""
        check_order(self.broker, handler.event)
        declare(self.broker, self.name, [describe(handler.event).topic])

    def __repr__(self) -> str:
        return f"App({self.name!r}, {self.database!r}, {type(self.broker).__name__})"


def _group(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        fix = 'Its name is its consumer group: App("orders", ...).'
        raise ConfigurationError(f"{name!r} names no application.", fix=fix)
    return name
