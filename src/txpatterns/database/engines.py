"""Engines as the library needs them: explicit BEGIN on SQLite, a small pool of its own, the right driver."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from txpatterns.errors import ConfigurationError, MissingExtra, NotTransactional

WRITES = "txpatterns_writes"
"""Execution option: this transaction will write, so on SQLite it begins IMMEDIATE."""

IDLE = timedelta(seconds=15)
"""A transaction of the library's own that does nothing for so long is that of a process that was stopped."""

AnyEngine = Engine | AsyncEngine
T = TypeVar("T")

_POOL_SIZE = 20
"""Of engines that are made here: enough for a consumer's handlers and an application's own requests."""
_ASYNC_DRIVERS = frozenset(("aiosqlite", "asyncpg", "psycopg_async", "psycopg"))
_URLS = "For example: sqlite+aiosqlite:///orders.db or postgresql+asyncpg://user@host/name"
_EXTRA_OF = {"aiosqlite": "txpatterns[sqlite]", "asyncpg": "txpatterns[asyncpg]", "psycopg": "txpatterns[psycopg]"}


def given_engine(given: object) -> AnyEngine:
    """Give the engine that an application has given, or make that of its URL.

    Raises:
        ConfigurationError: it is neither, or no URL of a database; or the database is in memory, where another
            connection finds another database.
    """
    engine = make_engine(given) if isinstance(given, (str, URL)) else given
    if not isinstance(engine, (Engine, AsyncEngine)):
        raise ConfigurationError(
            f"{type(given).__name__} names no database.",
            fix="Give a URL or an engine; a sessionmaker goes beside it: Database(engine, sessions=...).",
        )
    if is_in_memory(sync_side(engine).url):
        raise ConfigurationError(
            "The database is in memory, where each connection has another one.",
            fix="Name a file: sqlite+aiosqlite:///orders.db. In tests, the txp fixture has one for each test.",
        )
    unlock_when_closed(sync_side(engine))
    return engine


def read_url(url: str | URL, named: str = "This") -> URL:
    """Read a database's URL, which the error calls ``named``.

    Raises:
        ConfigurationError: it is none. Nothing of it is repeated, for there may be a password in it.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{named} is no database URL.", fix=_URLS) from None


def make_engine(url: str | URL) -> AnyEngine:
    """Make the engine for a URL: asynchronous where the driver can be, and set up for the library.

    Raises:
        ConfigurationError: it is no URL of a database that is supported.
        MissingExtra: the driver is not installed; the message has the line that installs it.
    """
    parsed = read_url(url)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"{parsed.get_backend_name()} is not supported.", fix="Use a sqlite or a postgresql URL."
        )
    # Parameters are the users' data: they must not get into the text of an error, and so into a log.
    options: dict[str, Any] = {"hide_parameters": True}
    if parsed.get_backend_name() == "postgresql":
        options["pool_size"] = _POOL_SIZE
    try:
        if is_asynchronous(parsed):
            made: AnyEngine = create_async_engine(parsed, **options)
        else:
            made = sa.create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get(error.name or "", "the driver")
        raise MissingExtra(f"The driver {error.name} is not installed.", fix=f"pip install '{extra}'") from error
    except NoSuchModuleError as error:
        raise ConfigurationError(f"There is no driver {parsed.drivername}.", fix=_URLS) from error
    except ArgumentError:  # its text repeats the URL
        raise ConfigurationError("This is no database URL.", fix=_URLS) from None
    prepare(sync_side(made))
    return made


def is_asynchronous(url: URL) -> bool:
    """Whether the engine that is made of a URL is an asynchronous one."""
    return url.get_driver_name() in _ASYNC_DRIVERS


def is_in_memory(url: URL) -> bool:
    """Whether a URL names a SQLite database that is gone with its connection, and that no other one reaches."""
    name = url.database or ":memory:"
    return url.get_backend_name() == "sqlite" and (":memory:" in name or "mode=memory" in str(url))


def sync_side(engine: AnyEngine) -> Engine:
    """Give the plain engine that an asynchronous one drives."""
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def schema_of(bind: Connection | Engine, table: sa.Table | None = None) -> str | None:
    """Give the schema that a table, or one of ours, which name none, has on this connection or engine."""
    options: Mapping[str, Any] = bind.get_execution_options()
    declared = None if table is None else table.schema
    schema: str | None = (options.get("schema_translate_map") or {}).get(declared, declared)
    return schema


def qualified(table: sa.Table, bind: Connection | Engine) -> str:
    """Give a table's name as a statement needs it, with the schema that it has there."""
    return in_schema(schema_of(bind, table), table, bind.dialect)


def in_schema(schema: str | None, table: sa.Table, dialect: Dialect) -> str:
    """Give a table's name as a statement needs it, with this schema."""
    return f"{dialect.identifier_preparer.quote(schema)}.{table.name}" if schema else table.name


def own_engine(engine: AnyEngine) -> AnyEngine:
    """Make a second engine to the same database with a pool of its own, so that no application load starves it."""
    source = sync_side(engine)
    made = Engine(source.pool.recreate(), source.dialect, source.url, hide_parameters=True)
    prepare(made)
    return AsyncEngine(made) if isinstance(engine, AsyncEngine) else made


def apart(engine: AnyEngine, beside: Connection, work: Callable[[Connection], T]) -> T:
    """Run ``work`` in a transaction on a connection of its own, while somebody else's transaction waits for it.

    It waits in the way of that transaction's world; a plain one beside an asynchronous engine has it in a thread.
    """
    own = own_engine(engine)
    if isinstance(own, AsyncEngine) and not beside.dialect.is_async:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, _begun(own, work)).result()
    plain = sync_side(own)
    try:
        with plain.begin() as connection:
            return work(connection)
    finally:
        plain.dispose()


async def _begun(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def is_autocommit(engine: Engine) -> bool:
    """Whether an engine was made so that each statement is a transaction by itself."""
    level = engine.get_execution_options().get("isolation_level")
    if level is None:
        level = engine.dialect._on_connect_isolation_level  # noqa: SLF001 - it is told in no other way
    return level == "AUTOCOMMIT"


def refuse_autocommit(connection: Connection) -> None:
    """Raise NotTransactional where a statement on this connection would be a transaction by itself."""
    dbapi: Any = connection.connection.dbapi_connection
    driver: Any = connection.connection.driver_connection
    autocommits = getattr(dbapi, "autocommit", None) is True or getattr(driver, "autocommit", None) is True
    if connection.dialect.name == "sqlite":
        autocommits = driver.isolation_level is None and not driver.in_transaction
    if autocommits:
        raise NotTransactional


async def dispose(engine: AnyEngine) -> None:
    """Close an engine's connections, each that is in use now as soon as it is given back.

    SQLAlchemy leaves those to the garbage collector, which cannot close one that needs an event loop.
    """
    plain = sync_side(engine)
    former = plain.pool
    plain.dispose(close=False)
    event.listen(former, "checkin", _close_returned)
    if isinstance(engine, AsyncEngine):
        await greenlet_spawn(former.dispose)
    else:
        former.dispose()


def _close_returned(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


def prepare(engine: Engine) -> None:
    """On SQLite: WAL, full durability, explicit BEGIN, and IMMEDIATE for transactions that say they write."""
    if engine.dialect.name != "sqlite" or event.contains(engine, "begin", _begin_sqlite):
        return
    unlock_when_closed(engine)
    event.listen(engine, "connect", _connect_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


def unlock_when_closed(engine: Engine) -> None:
    """On SQLite: let the connections that an engine makes from now on give their locks back when they are closed."""
    if engine.dialect.name == "sqlite" and not event.contains(engine, "do_connect", _choose_sqlite_connection):
        event.listen(engine, "do_connect", _choose_sqlite_connection)


class _Unlocking(sqlite3.Connection):
    """Gives its locks back when it is closed.

    A connection whose task was cancelled in the middle of reading is closed with that statement unfinished. SQLite
    then keeps it, and the lock of its transaction, for as long as anything refers to the cursor. Closing it twice
    is harmless, as with any connection: a cancelled task's connection is closed by the driver and by the pool.
    """

    def close(self) -> None:
        try:
            if self.in_transaction:
                self.rollback()
        except sqlite3.ProgrammingError:
            return  # closed before, with nothing left to give back
        finally:
            super().close()


def _choose_sqlite_connection(_dialect: Dialect, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    options.setdefault("factory", _Unlocking)


def _connect_sqlite(connection: DBAPIConnection, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def keep_settings(engine: Engine) -> None:
    """Set the sessions of an engine of the library's own, each once; not for one behind a pooler, which mixes them.

    Each statement is planned for the table as it is when it runs: a prepared one would keep its plan for as long as the
    statistics stay, and that of a queue which was empty then reads the whole of a full one again and again.

    The server ends a transaction that does nothing for `IDLE`, or less where that is the rule there: a process that was
    stopped keeps no row locked.
    """
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _keep_settings)


def _keep_settings(connection: DBAPIConnection, _record: Any) -> None:
    idle = IDLE // timedelta(milliseconds=1)
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT set_config('plan_cache_mode', 'force_custom_plan', false), set_config(name, CASE WHEN "
            f"CAST(setting AS int) BETWEEN 1 AND {idle} THEN setting ELSE '{idle}' END, false) "
            "FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
        )
        cursor.close()
        connection.commit()
    except BaseException:  # the pool does not know of this connection yet, and nobody else would close it
        abandon: Callable[[], None] = getattr(connection, "terminate", connection.close)
        abandon()
        raise


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
