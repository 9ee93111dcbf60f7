"""One door to the database for everything that the library does in transactions of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, CursorResult, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.clock import Clock, SystemClock
from txpatterns.database import dialects
from txpatterns.database.engines import IDLE, AnyEngine, dispose, given_engine, read_url, sync_side
from txpatterns.database.finishing import finish
from txpatterns.database.home import Home
from txpatterns.database.schema import Instant
from txpatterns.database.second import plain_engine
from txpatterns.database.sessions import PLAIN, AsyncSessions, PlainSessions, opened, sessions_of
from txpatterns.errors import ConfigurationError
from txpatterns.text import masked

T = TypeVar("T")

_REPEATS = 8
_OWN_CONNECTIONS = 3


class Database:
    """The database that holds the application's rows and the library's tables.

    Made of a URL, an ``Engine`` or an ``AsyncEngine``. The library's own work runs on at most three connections
    of a separate pool, so that a busy application cannot starve it. Times are those of the database's clock.

    ``sync_engine`` serves plain sessions beside an ``AsyncEngine``; left out, one like it is made when it is needed.
    ``sessions`` and ``sync_sessions`` are the application's own sessionmakers, for its sessions and those of handlers.
    ``schema`` is that of the library's tables; left out, it is where the engine's ``schema_translate_map`` or else the
    search path of a new connection leads. ``listen_url`` is the direct address of a database that ``engine`` reaches
    through a pooler in transaction mode.

    Raises:
        ConfigurationError: these do not belong together.
    """

    def __init__(
        self,
        engine: AnyEngine | str | URL,
        *,
        sync_engine: Engine | None = None,
        sessions: AsyncSessions | PlainSessions | None = None,
        sync_sessions: PlainSessions | None = None,
        schema: str | None = None,
        clock: Clock | None = None,
        listen_url: str | None = None,
    ) -> None:
        self._made_here = isinstance(engine, (str, URL))
        self.engine = given_engine(engine)
        self.clock: Clock = clock or SystemClock()
        if listen_url is not None:
            read_url(listen_url, "listen_url")
        self.listen_url = listen_url
        self.sessions = sessions_of(sessions, self.engine)
        self.sync_sessions = sync_sessions
        self._given_sync_engine = self._plain_one(sync_engine)
        self._made_sync_engine: Engine | None = None
        self.home = Home(self.engine, schema=schema, is_pooled=listen_url is not None)
        self._make_locks()

    def _plain_one(self, sync_engine: object) -> Engine | None:
        given = self.sync_sessions
        if isinstance(self.engine, Engine) and (sync_engine is not None or given is not None):
            raise ConfigurationError("This engine is a plain one already.", fix="Give sessions=sessionmaker(engine).")
        if sync_engine is None and given is not None:
            sync_engine = given.kw.get("bind")
        if sync_engine is not None:
            if not isinstance(sync_engine, Engine):
                kind = type(sync_engine).__name__
                raise ConfigurationError(f"{kind} is no engine for plain sessions.", fix="Give create_engine(...).")
            sessions_of(given, sync_engine)
        return sync_engine

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @property
    def is_sqlite(self) -> bool:
        """Whether there is only one writer at a time."""
        return self.dialect == "sqlite"

    @property
    def sync_engine(self) -> Engine:
        """An engine for plain sessions on this database: the one that was given, or one like ``engine``.

        Raises:
            MissingExtra: there is no driver that blocks.
            ConfigurationError: ``engine`` has something that cannot be carried over.
        """
        if isinstance(self.engine, Engine):
            return self.engine
        if self._given_sync_engine is not None:
            return self._given_sync_engine
        if self._made_sync_engine is None:
            self._made_sync_engine = plain_engine(self.engine, is_pooled=self.listen_url is not None)
        return self._made_sync_engine

    @property
    def has_plain_engine_of_yours(self) -> bool:
        """Whether plain sessions are on an engine that the application has made."""
        return isinstance(self.engine, Engine) or self._given_sync_engine is not None

    def session(self, **options: Any) -> AsyncSession:
        """Open a session of the application's kind on its engine.

        Raises:
            ConfigurationError: the database was given as a plain ``Engine``.
        """
        if not isinstance(self.engine, AsyncEngine):
            raise ConfigurationError("This App has a plain Engine.", fix="Use app.sync_session(), or an async URL.")
        session: AsyncSession = opened(self.sessions, self.engine, options)
        return session

    def sync_session(self, **options: Any) -> Session:
        """Open a plain session of the application's kind. Raises what ``sync_engine`` raises."""
        engine = self.sync_engine
        factory = self.sessions if engine is self.engine else self.sync_sessions or PLAIN
        session: Session = opened(factory, engine, options)
        return session

    def now(self, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Give the database's clock as an SQL expression, moved by ``plus`` and by the test kit's clock."""
        return dialects.now(self.seconds(plus))

    def seconds(self, plus: timedelta = timedelta(0)) -> float:
        """Give the parameter of a ``dialects.moment`` that is to be what ``now(plus)`` is."""
        instant = self.clock.instant
        if instant is not None:
            return dialects.STANDING + (instant + plus).timestamp()
        return (self.clock.offset + plus).total_seconds()

    async def moment(self) -> datetime:
        """Read the database's clock, moved by the test kit's."""
        now = sa.select(sa.type_coerce(self.now(), Instant))
        return await self.read(lambda connection: connection.execute(now).scalar_one())

    async def locate(self) -> None:
        """Find out where our tables are, anew. Every statement of ours names that schema from then on."""
        async with self._places:
            await _run(self.home.own, self.home.take_from, self._threads)

    def execute_beside(
        self, connection: Connection, statement: sa.Executable, parameters: Any = None
    ) -> CursorResult[Any]:
        """Run a statement on our tables in somebody else's transaction, whatever its session takes names for."""
        schema = self.home.schema_beside(connection)
        options: dict[str, Any] = {} if schema is None else {"schema_translate_map": {None: schema}}
        return connection.execute(statement, parameters, execution_options=options)

    async def transact(self, work: Callable[[Connection], T], *, urgent: bool = False, single: bool = False) -> T:
        """Run ``work`` in a write transaction of the library's own and commit it.

        A deadlock, a serialisation failure or a busy file rolls back and runs ``work`` again at once, at most
        eight times; so it must do nothing but SQL. When the link fails during COMMIT the outcome is unknown
        and the error is raised. ``urgent`` is for leases, which have a connection for themselves. ``single`` says that
        ``work`` is one statement, which is a transaction by itself where that saves round trips. PostgreSQL ends a
        transaction when it does nothing for 15 seconds, so that a process that was stopped keeps no row locked.
        """
        async with self._urgent_place if urgent else self._places, self.writing():
            for attempt in range(_REPEATS):
                try:
                    engine = self.home.reads if single and not self.is_sqlite else self.home.writes
                    return await _run(engine, self._at_home(self._bounded(work)), self._threads)
                except sa.exc.DBAPIError as error:
                    if attempt + 1 == _REPEATS or not dialects.is_repeatable(error):
                        raise
        raise AssertionError("unreachable")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads. Each of its statements sees what is committed when it runs."""
        async with self._places:
            return await _run(self.home.reads, self._at_home(work), self._threads)

    async def execute(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Run one writing statement that is a transaction by itself, in one round trip; gives the row count."""
        if self.is_sqlite:
            return await self.transact(lambda connection: connection.execute(statement, parameters).rowcount)
        return await self.read(lambda connection: connection.execute(statement, parameters).rowcount)

    @property
    def _own(self) -> AnyEngine:
        return self.home.own

    def _at_home(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """Look first where our tables are, if that is not known, in the same transaction."""
        if self.home.is_located:
            return work

        def located(connection: Connection) -> T:
            self.home.take_from(connection)
            return work(connection)

        return located

    def _bounded(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        if not self.home.is_pooled:  # otherwise the connection is set so once
            return work

        def bounded(connection: Connection) -> T:
            connection.execute(dialects.BOUND_IDLE, {"limit": str(IDLE // timedelta(milliseconds=1))})
            return work(connection)

        return bounded

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Wait for this process's turn to write: a fair queue on SQLite, nothing elsewhere."""
        if not self.is_sqlite:
            yield
            return
        async with self._write_lock:
            yield

    def beside(self) -> Database:
        """Give the same database with connections apart from these: for work of ours in another event loop."""
        return Database(self.engine, schema=self.home.schema, clock=self.clock, listen_url=self.listen_url)

    async def close(self) -> None:
        """Close the connections that the library opened; the application's own engines stay as they are.

        One that is still in use is closed when it is given back.
        """
        engines: list[AnyEngine] = [self._own, *([self.engine] if self._made_here else [])]
        if self._made_sync_engine is not None:
            engines.append(self._made_sync_engine)
        self._made_sync_engine = None
        for engine in engines:
            await finish(dispose(engine))
        # The next use may be in another event loop, and after the tables have been made again.
        self._make_locks()
        self.home.is_located = False

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone, and open new ones when they are needed."""
        for engine in (self._own, self.engine, self._given_sync_engine, self._made_sync_engine):
            if engine is not None:
                sync_side(engine).dispose(close=False)
        self._make_locks()

    def _make_locks(self) -> None:
        self._places = asyncio.Semaphore(_OWN_CONNECTIONS - 1)
        self._urgent_place = asyncio.Semaphore(1)
        self._threads = anyio.CapacityLimiter(_OWN_CONNECTIONS)
        """Apart from those for the application's own work, which may all be waiting."""
        self._write_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def shown_url(self) -> str:
        """Which database this is, without its password and other secrets."""
        return masked(sync_side(self.engine).url.render_as_string(hide_password=True))

    def __repr__(self) -> str:
        return f"Database({self.shown_url!r})"


async def _run(engine: AnyEngine, work: Callable[[Connection], T], threads: anyio.CapacityLimiter) -> T:
    if isinstance(engine, AsyncEngine):
        return await finish(_abegin_and(engine, work))
    return await finish(anyio.to_thread.run_sync(_begin_and, engine, work, limiter=threads))


async def _abegin_and(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(work)


def _begin_and(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
