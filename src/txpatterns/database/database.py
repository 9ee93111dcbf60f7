"""One door to the database for everything that the library does in transactions of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self, TypeVar

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.clock import Clock, SystemClock
from txpatterns.database import dialects
from txpatterns.database.engines import WRITES, AnyEngine, dispose, make_engine, own_engine, sync_engine_for, sync_side
from txpatterns.database.finishing import finish
from txpatterns.text import masked

T = TypeVar("T")

_REPEATS = 8
_OWN_CONNECTIONS = 3


class Database:
    """The database that holds the application's rows and the library's tables.

    Made of a URL, an ``Engine`` or an ``AsyncEngine``. The library's own work runs on at most three connections
    of a separate pool, so that a busy application cannot starve it. Times are those of the database's clock.

    ``listen_url`` is the direct address of a database that ``engine`` reaches through a pooler in transaction mode.
    """

    def __init__(
        self,
        engine: AnyEngine | str | URL,
        *,
        clock: Clock | None = None,
        listen_url: str | None = None,
    ) -> None:
        self._made_here = isinstance(engine, (str, URL))
        self.engine: AnyEngine = make_engine(engine) if isinstance(engine, (str, URL)) else engine
        self.clock: Clock = clock or SystemClock()
        self.listen_url = listen_url
        self._own = own_engine(self.engine)
        # An engine with options costs more to make than most statements cost to run.
        self._writes = self._own.execution_options(**{WRITES: True})
        # A single statement needs no BEGIN and COMMIT around it, except behind a pooler: there asyncpg's PREPARE
        # and EXECUTE meet the same server connection only inside a transaction.
        alone = not self.is_sqlite and listen_url is None
        self._reads = self._own.execution_options(isolation_level="AUTOCOMMIT") if alone else self._own
        self._make_locks()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @property
    def is_sqlite(self) -> bool:
        """Whether there is only one writer at a time."""
        return self.dialect == "sqlite"

    @cached_property
    def sync_engine(self) -> Engine:
        """An engine for plain sessions on this database. Raises MissingExtra without a driver that blocks."""
        return sync_engine_for(self.engine)

    def now(self, plus: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Give the database's clock as an SQL expression, moved by ``plus`` and by the test kit's clock."""
        return dialects.now(self.clock.offset + plus)

    async def transact(self, work: Callable[[Connection], T], *, urgent: bool = False) -> T:
        """Run ``work`` in a write transaction of the library's own and commit it.

        A deadlock, a serialisation failure or a busy file rolls back and runs ``work`` again at once, at most
        eight times; so it must do nothing but SQL. When the link fails during COMMIT the outcome is unknown
        and the error is raised. ``urgent`` is for leases, which have a connection for themselves.
        """
        async with self._urgent_place if urgent else self._places, self.writing():
            for attempt in range(_REPEATS):
                try:
                    return await _run(self._writes, work)
                except sa.exc.DBAPIError as error:
                    if attempt + 1 == _REPEATS or not dialects.is_repeatable(error):
                        raise
        raise AssertionError("unreachable")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads. Each of its statements sees what is committed when it runs."""
        async with self._places:
            return await _run(self._reads, work)

    async def execute(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Run one writing statement that is a transaction by itself, in one round trip; gives the row count."""
        if self.is_sqlite:
            return await self.transact(lambda connection: connection.execute(statement, parameters).rowcount)
        async with self._places:
            return await _run(self._reads, lambda connection: connection.execute(statement, parameters).rowcount)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Wait for this process's turn to write: a fair queue on SQLite, nothing elsewhere."""
        if not self.is_sqlite:
            yield
            return
        async with self._write_lock:
            yield

    async def close(self) -> None:
        """Close the connections that the library opened; the application's own engine stays as it is.

        One that is still in use is closed when it is given back.
        """
        engines: list[AnyEngine] = [self._own, *([self.engine] if self._made_here else [])]
        made = self.__dict__.pop("sync_engine", None)
        if made is not None and made is not self.engine:
            engines.append(made)
        for engine in engines:
            await finish(dispose(engine))
        # The next use may be in another event loop.
        self._make_locks()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone, and open new ones when they are needed."""
        engines = {self._own, self.engine, self.__dict__.get("sync_engine", self.engine)}
        for engine in engines:
            sync_side(engine).dispose(close=False)
        self._make_locks()

    def _make_locks(self) -> None:
        self._places = asyncio.Semaphore(_OWN_CONNECTIONS - 1)
        self._urgent_place = asyncio.Semaphore(1)
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


async def _run(engine: AnyEngine, work: Callable[[Connection], T]) -> T:
    if isinstance(engine, AsyncEngine):
        return await finish(_abegin_and(engine, work))
    return await finish(anyio.to_thread.run_sync(_begin_and, engine, work))


async def _abegin_and(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(work)


def _begin_and(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
