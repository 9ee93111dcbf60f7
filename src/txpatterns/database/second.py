"""A second engine like the application's: for plain sessions beside an asynchronous one, or at another address.

What is carried over is what connections are made with, the pool's kind and size, the isolation level, the JSON
functions and the execution options. Listeners to an engine's or a pool's other events are not: they may speak to one
driver only. Whether both engines' connections begin alike is compared at the start, see `agreement`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, Pool, QueuePool

from txpatterns.database.arguments import Arguments, arguments_of, translation
from txpatterns.database.engines import AnyEngine, prepare, sync_side
from txpatterns.errors import ConfigurationError, MissingExtra

_PLAIN_OF = {"aiosqlite": "pysqlite", "asyncpg": "psycopg", "psycopg": "psycopg", "psycopg_async": "psycopg"}
_ADDRESS = ("host", "port", "database", "dbname")


def plain_engine(engine: AsyncEngine, *, is_pooled: bool) -> Engine:
    """Make an engine for plain sessions that reaches the same database in the same way.

    ``is_pooled``: through a pooler in transaction mode.

    Raises:
        MissingExtra: the plain driver (psycopg for PostgreSQL) is not installed.
        ConfigurationError: the engine has something that cannot be carried over; give a plain engine of your own.
    """
    source = engine.sync_engine
    driver = _PLAIN_OF.get(source.dialect.driver)
    if driver is None:
        raise ConfigurationError(
            f"There is no plain driver for {source.dialect.driver}.",
            fix="Give a plain engine of yours: Database(engine, sync_engine=create_engine(...)).",
        )
    url = source.url.set(drivername=f"{source.dialect.name}+{driver}", query={})
    try:
        made = sa.create_engine(url, hide_parameters=True, **_options_of(source), **_pool_like(source.pool))
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "A `def` handler needs a driver that blocks, and psycopg is not installed.",
            fix="pip install 'txpatterns[psycopg]', or write the handler as `async def`.",
        ) from error
    translate = translation(source.dialect.driver, is_pooled=is_pooled)
    translate(arguments_of(source, made.dialect), made.dialect)  # what cannot be carried over is refused now

    def connect(dialect: Dialect, *_given: Any) -> DBAPIConnection:
        args, kwargs = translate(arguments_of(source, dialect), dialect)
        return dialect.connect(*args, **kwargs)

    prepare(made)
    event.listen(made, "do_connect", connect)
    return made.execution_options(**source.get_execution_options())


def engine_at(engine: AnyEngine, address: str) -> AnyEngine:
    """Make an engine without a pool at another address of the same database, with all else as this one has it.

    A URL that names another driver stands for itself.
    """
    source, url = sync_side(engine), make_url(address)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername=source.url.drivername)
    if isinstance(engine, AsyncEngine) or url.get_dialect().is_async:
        made: AnyEngine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
    else:
        made = sa.create_engine(url, poolclass=NullPool, hide_parameters=True)
    if sync_side(made).dialect.driver == source.dialect.driver and _has_arguments(source, sync_side(made).dialect):
        given = dict(sync_side(made).dialect.create_connect_args(url)[1])

        def connect(dialect: Dialect, *_given: Any) -> DBAPIConnection:
            args, kwargs = _moved(arguments_of(source, dialect), given)
            return dialect.connect(*args, **kwargs)

        event.listen(sync_side(made), "do_connect", connect)
    return made


def _has_arguments(source: Engine, beside: Dialect) -> bool:
    try:
        arguments_of(source, beside)
    except ConfigurationError:
        return False
    return True


def _moved(arguments: Arguments, address: dict[str, Any]) -> Arguments:
    args, kwargs = arguments
    return args, {**{name: value for name, value in kwargs.items() if name not in _ADDRESS}, **address}


def _options_of(source: Engine) -> dict[str, Any]:
    dialect: Any = source.dialect
    found = {
        "isolation_level": dialect._on_connect_isolation_level,  # noqa: SLF001 - they are told in no other way
        "json_serializer": dialect._json_serializer,  # noqa: SLF001
        "json_deserializer": dialect._json_deserializer,  # noqa: SLF001
    }
    return {name: value for name, value in found.items() if value is not None}


def _pool_like(pool: Pool) -> dict[str, Any]:
    common = {"pool_recycle": pool._recycle, "pool_pre_ping": pool._pre_ping}  # noqa: SLF001 - as above
    if not isinstance(pool, QueuePool):
        return {"poolclass": NullPool, **common}
    limits = {"pool_size": pool.size(), "max_overflow": pool._max_overflow, "pool_timeout": pool._timeout}  # noqa: SLF001
    return {"poolclass": QueuePool, **limits, **common}
