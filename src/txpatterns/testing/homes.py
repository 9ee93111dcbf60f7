"""The databases that Apps have in tests: SQLite files that are new each time, or given ones that are set back."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import NullPool, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from txpatterns.database import Database
from txpatterns.database.engines import AnyEngine, is_in_memory, make_engine, prepare, read_url, sync_side
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError
from txpatterns.testing.leaks import Connections
from txpatterns.testing.rows import Rows, find_rows

T = TypeVar("T")

Given = Engine | AsyncEngine | URL | str | sessionmaker[Any] | async_sessionmaker[Any]
"""What names a database: a URL, an engine, or a sessionmaker with an engine."""
Metadata = tuple[sa.MetaData | None, ...]
"""Of the Apps that share a database."""


class Home:
    """A database for one App, kept for a whole run: so each statement is compiled once, not once for each test."""

    def __init__(self, engine: AnyEngine, schema: str | None = None) -> None:
        # The library's own connections are pooled, and closed whenever its parts stop. The application's are closed
        # when they are given back, so that none of them outlives the event loop of its test.
        self.database = Database(engine, schema=schema)
        self._plain = sync_side(engine)
        self._former = self._plain.pool
        self._connections: Connections | None = None

    def enter(self, metadata: Metadata) -> None:
        """Make it ready for a test."""
        self._former = self._plain.pool
        pool = self._former.recreate()
        if not isinstance(pool, sa.StaticPool):
            event.listen(pool, "checkin", _close_returned)
        self._connections = Connections(pool)
        self._plain.pool = pool

    def leave(self) -> list[str]:
        """Make it as it was before; says which connections were left behind."""
        self._plain.pool = self._former
        return self._connections.leaks() if self._connections is not None else []


class Scratch(Home):
    """A SQLite file that is copied from an empty one for each test."""

    def __init__(self, folder: Path, *, is_async: bool) -> None:
        self._folder = folder
        self._file = folder / "txp.db"
        self._empty: dict[Metadata, tuple[Path, int]] = {}
        super().__init__(_engine(make_url(f"sqlite:///{self._file}"), is_async=is_async))

    def enter(self, metadata: Metadata) -> None:
        super().enter(metadata)
        if schemas := _schemas(metadata):  # a file has one schema, whatever those of the metadata are
            self._plain.update_execution_options(schema_translate_map=dict.fromkeys(schemas))
        tables = sum(len(each.tables) for each in metadata if each is not None)
        empty, known = self._empty.get(metadata, (self._folder / f"empty-{len(self._empty)}.db", -1))
        if known != tables:
            _make_tables(empty, metadata)
            self._empty[metadata] = empty, tables
        shutil.copyfile(empty, self._file)

    def leave(self) -> list[str]:
        leaks = super().leave()
        _unlink(self._file)
        return leaks


class Lent(Home):
    """A database that is given. What is in it at the start of the run is in it at the start of each test."""

    def __init__(self, engine: AnyEngine, schema: str | None) -> None:
        super().__init__(engine, schema)
        self._named: dict[str, Any] = {} if schema is None else {"schema_translate_map": {None: schema}}
        self._rows: Rows | None = None

    def enter(self, metadata: Metadata) -> None:
        super().enter(metadata)
        if self._rows is None:
            self._rows = self._do(partial(find_rows, theirs=metadata))

    def leave(self) -> list[str]:
        if self._rows is not None:
            holding = self._connections.processes() if self._connections is not None else []
            self._do(partial(self._rows.set_back, without=holding))
        return super().leave()

    def _do(self, work: Callable[[Connection], T]) -> T:
        """Run in a transaction, in a thread with an event loop of its own: the test's may be running, or gone."""
        engine, outcome = self.database.engine, list[T]()

        async def in_a_loop(engine: AsyncEngine) -> None:
            async with engine.begin() as connection:
                outcome.append(await connection.run_sync(self._at_home(work)))

        def run() -> None:
            if isinstance(engine, AsyncEngine):
                asyncio.run(in_a_loop(engine))
                return
            with engine.begin() as connection:
                outcome.append(self._at_home(work)(connection))

        _in_thread(run)
        return outcome[0]

    def _at_home(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        return lambda connection: work(connection.execution_options(**self._named))


@dataclass
class Homes:
    """All databases of a run."""

    folder: Path
    _known: dict[object, Home] = field(default_factory=dict)

    def of(self, engine: AnyEngine, number: int, given: Given | None, schema: str | None) -> Home:
        """Give the home of an App whose own engine is this, the number-th of a test.

        In ``schema`` are the library's tables; a SQLite file has none.
        """
        is_async = isinstance(engine, AsyncEngine)
        if not given:
            return self._keep((number, is_async), lambda: self._scratch(number, is_async=is_async))
        url = read_url(given) if isinstance(given, (str, URL)) else sync_side(engine_of(given)).url
        if is_in_memory(url):
            raise ConfigurationError(
                f"{url} is in memory: each connection would have a database of its own.",
                fix="Leave txp_database out: each test has a new SQLite file then.",
            )
        if isinstance(given, (str, URL)):
            return self._keep((url, is_async, schema), lambda: Lent(_engine(url, is_async=is_async), schema))
        lent = engine_of(given)
        return self._keep((lent, schema), lambda: Lent(lent, schema))

    def _keep(self, name: object, make: Callable[[], Home]) -> Home:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    def _scratch(self, number: int, *, is_async: bool) -> Home:
        folder = self.folder / f"{number}-{'async' if is_async else 'plain'}"
        folder.mkdir()
        return Scratch(folder, is_async=is_async)


def engine_of(given: Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any]) -> AnyEngine:
    """Give an engine, or that of a sessionmaker. Raises ConfigurationError for a sessionmaker without one."""
    engine = given if isinstance(given, Engine | AsyncEngine) else getattr(given, "kw", {}).get("bind")
    if not isinstance(engine, Engine | AsyncEngine):
        raise ConfigurationError(
            f"{given!r} has no engine, so it names no database.", fix="Give a URL, an engine, or sessionmaker(engine)."
        )
    return engine


def _engine(url: URL, *, is_async: bool) -> AnyEngine:
    """Make an engine of the App's kind, whichever driver the URL names."""
    drivers = {"sqlite": ("sqlite+aiosqlite", "sqlite")}
    drivername = drivers.get(url.get_backend_name(), (url.drivername, url.drivername))[0 if is_async else 1]
    made = make_engine(url.set(drivername=drivername))
    if isinstance(made, AsyncEngine) and not is_async:
        plain = "postgresql+psycopg" if url.get_driver_name() == "asyncpg" else drivername
        made = sa.create_engine(url.set(drivername=plain), hide_parameters=True)
    return made


def _close_returned(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


def _schemas(metadata: Metadata) -> set[str]:
    tables = [table for each in metadata if each is not None for table in each.tables.values()]
    return {table.schema for table in tables if table.schema is not None}


def _make_tables(file: Path, metadata: Metadata) -> None:
    _unlink(file)
    options = {"schema_translate_map": dict.fromkeys(schemas)} if (schemas := _schemas(metadata)) else {}
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=NullPool, execution_options=options)
    prepare(engine)
    try:
        with engine.begin() as connection:
            for each in metadata:
                create_missing(connection, target=each)
    except (sa.exc.CompileError, sa.exc.DBAPIError) as error:
        raise ConfigurationError(
            f"The application's tables cannot be made on SQLite: {error}",
            fix="Let txp_database name a PostgreSQL database for tests.",
        ) from error


def _in_thread(work: Callable[[], None]) -> None:
    raised = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            raised.append(error)

    thread = threading.Thread(target=run, name="txp database")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _unlink(file: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
