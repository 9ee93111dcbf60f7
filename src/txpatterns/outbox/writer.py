"""Writing the rows of a transaction's messages: one statement, on the driver's own connection where that is safe.

The bare driver is the cheapest way by far, but only inside a transaction that the driver itself knows of:
SQLAlchemy's asyncpg, for one, sends BEGIN with the first statement that goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from txpatterns.database.database import Database
from txpatterns.database.direct import translated
from txpatterns.database.engines import in_schema
from txpatterns.messages import Message
from txpatterns.outbox.schema import COLUMNS, outbox_table
from txpatterns.serialization.exact_json import json_of_texts

_TYPES = ("text", "text", "text", "text", "smallint", "bytea", "text", "text", "timestamptz")
# Only our own names are put into the texts below; every value is bound.
_INTO = f"INSERT INTO {{table}} ({', '.join(COLUMNS)}) "
# The relay knows what may still come to light by the numbers of the transactions that run, so a transaction takes its
# number before it draws its first position. A plan asks a condition that concerns no row before anything else.
_NUMBERED = " WHERE pg_current_xact_id() IS NOT NULL"
_ASYNCPG_ONE = f"{_INTO}SELECT {', '.join(f'${n}::{t}' for n, t in enumerate(_TYPES, 1))}{_NUMBERED}"
_ASYNCPG_MANY = f"{_INTO}SELECT * FROM unnest({', '.join(f'${n}::{t}[]' for n, t in enumerate(_TYPES, 1))}){_NUMBERED}"
_PSYCOPG_ONE = f"{_INTO}SELECT {', '.join(f'%s::{t}' for t in _TYPES)}{_NUMBERED}"
_PSYCOPG_MANY = f"{_INTO}SELECT * FROM unnest({', '.join(f'%s::{t}[]' for t in _TYPES)}){_NUMBERED}"
_values = sa.select(*(sa.bindparam(name, type_=outbox_table.c[name].type) for name in COLUMNS))
_values_numbered = _values.where(sa.func.pg_current_xact_id().is_not(None))
_INSERT = {
    "sqlite": sa.insert(outbox_table).inline(),
    "postgresql": sa.insert(outbox_table).inline().from_select(COLUMNS, _values_numbered),
}


def row_of(message: Message) -> tuple[Any, ...]:
    """Give the values of a message's columns, in the order of the table."""
    return (
        message.id,
        message.topic,
        message.type,
        message.key,
        message.bucket,
        message.payload,
        json_of_texts(message.headers) if message.headers else "{}",
        message.content_type,
        message.occurred_at,
    )


def values_of(message: Message) -> dict[str, Any]:
    """Give the same by the names of the columns."""
    return dict(zip(COLUMNS, row_of(message), strict=True))


def write_rows(connection: Connection, messages: Sequence[Message], database: Database) -> None:
    """Insert the messages in order, in the connection's transaction, without reading anything back."""
    table = in_schema(database.home.schema_beside(connection), outbox_table, connection.dialect)
    if not _write_bare(connection, table, [row_of(message) for message in messages]):
        insert = _INSERT[connection.dialect.name]
        database.execute_beside(connection, insert, [values_of(message) for message in messages])


def _write_bare(connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> bool:
    driver: Any = connection.connection.driver_connection
    way = BARE.get(connection.dialect.driver)
    if way is None or driver is None:
        return False
    try:
        return way(driver, table, rows)
    except Exception as error:
        raise translated(connection, error, "INSERT INTO txp_outbox") from error


def _asyncpg(driver: Any, table: str, rows: Sequence[tuple[Any, ...]]) -> bool:
    if not driver.is_in_transaction():
        return False
    if len(rows) == 1:
        await_only(driver.execute(_ASYNCPG_ONE.format(table=table), *rows[0]))
    else:
        await_only(driver.execute(_ASYNCPG_MANY.format(table=table), *map(list, zip(*rows, strict=True))))
    return True


def _psycopg(driver: Any, table: str, rows: Sequence[tuple[Any, ...]]) -> bool:
    if driver.info.transaction_status.name != "INTRANS":
        return False
    if len(rows) == 1:
        answer = driver.execute(_PSYCOPG_ONE.format(table=table), rows[0])
    else:
        answer = driver.execute(_PSYCOPG_MANY.format(table=table), list(map(list, zip(*rows, strict=True))))
    if hasattr(answer, "__await__"):
        await_only(answer)
    return True


BARE: dict[str, Callable[[Any, str, Sequence[tuple[Any, ...]]], bool]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "psycopg_async": _psycopg,
}
