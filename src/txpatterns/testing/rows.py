"""Setting a database back: the rows that were there at the start of a run, and none of those that a test has made."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database import dialects
from txpatterns.database.engines import schema_of
from txpatterns.database.schema import database_table, metadata
from txpatterns.database.setup import create_missing, verify
from txpatterns.errors import ConfigurationError

_MOST = 10_000
"""Rows of one table above which a database is not taken for one that was made for tests."""
_STAY = (database_table.name, lease_table.name)
"""Tables that have the same rows whatever happens, or are of no concern when nothing runs."""
_PATIENCE = sa.text("SET LOCAL lock_timeout = '20s'")
"""A program beside the test that keeps a lock is told by an error, not by a test that hangs."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a database had at the start. Deletes and inserts only, so that it needs no special rights."""

    tables: Sequence[sa.Table]
    """Ours and theirs, each behind those that it refers to."""
    kept: dict[str, list[Row]]
    """The rows of the application's own tables, where there were any."""

    def set_back(self, connection: Connection, without: Sequence[int]) -> None:
        """Delete what was added, and put back what was changed, in the caller's transaction.

        ``without`` are the processes of connections that were left behind: what they have locked is set free.
        """
        for process in without:
            connection.execute(sa.select(sa.func.pg_terminate_backend(process)))
        if not dialects.is_sqlite(connection):
            connection.execute(_PATIENCE)
        kept = {table: self.kept[table.fullname] for table in self.tables if table.fullname in self.kept}
        whole = all(_read(connection, table) == rows for table, rows in kept.items())
        for table in reversed(self.tables):
            if not (whole and table in kept):
                connection.execute(sa.delete(table))
        for table, rows in kept.items():
            if not whole:
                connection.execute(sa.insert(table), rows)


def find_rows(connection: Connection, theirs: Sequence[sa.MetaData | None]) -> Rows:
    """Make what is missing of the tables, empty the library's own, and remember the rows of the others.

    Raises:
        ConfigurationError: it does not look like a database for tests: it has too many rows, or a process works on it.
        SchemaError: migrations of the application's own make the tables, and have not been run.
    """
    for each in theirs:
        create_missing(connection, target=each)
    verify(connection)
    _refuse_if_somebody_works(connection)
    inspector, schema = sa.inspect(connection), schema_of(connection)
    there = inspector.get_table_names(schema=schema)  # those of the release before, until the migration has run
    ours = [table for table in metadata.sorted_tables if table.name in there and table.name not in _STAY]
    others = {
        table.fullname: table
        for each in theirs
        if each is not None
        for table in each.sorted_tables
        if table.name not in metadata.tables and inspector.has_table(table.name, schema=table.schema or schema)
    }
    kept = {name: rows for name, table in others.items() if (rows := _read(connection, table))}
    for table in reversed(ours):
        connection.execute(sa.delete(table))
    return Rows([*others.values(), *ours], kept)


def _read(connection: Connection, table: sa.Table) -> list[Row]:
    columns = [column for column in table.columns if column.computed is None]
    query = sa.select(*columns).order_by(*table.primary_key.columns).limit(_MOST + 1)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    if len(rows) > _MOST:
        raise _no_database_for_tests(f"{table.fullname} has more than {_MOST} rows")
    return rows


def _refuse_if_somebody_works(connection: Connection) -> None:
    live = member_table.c.expires_at > dialects.now(0.0)
    for label in connection.execute(sa.select(member_table.c.label).where(live)).scalars():
        host, _, process = label.rpartition(":")
        if host != socket.gethostname() or (process != str(os.getpid()) and _is_alive(int(process))):
            raise _no_database_for_tests(f"the process {label} works on it")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it is there, and somebody else's
    return True


def _no_database_for_tests(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"This is no database for tests: {why}, and each test would set it back.",
        fix="Let txp_database name one that nothing else uses.",
    )
