"""Making the tables where they are missing, and refusing a database whose tables do not fit this version."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import qualified, schema_of
from txpatterns.database.home import SCHEMA, schemas_with_tables
from txpatterns.database.schema import (
    DISPENSABLE,
    SCHEMA_REVISION,
    SCHEMA_VERSION,
    USERS_VERSION_TABLE,
    VERSION_TABLE,
    database_table,
    metadata,
)
from txpatterns.errors import SchemaError
from txpatterns.messages import new_id

_OWN_CHAIN = "alembic revision --autogenerate, then alembic upgrade head"
_VERSION = sa.Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def create_missing(connection: Connection, target: sa.MetaData | None = None) -> list[str]:
    """Make the tables that are missing and give the database its uid; gives the names of what was made.

    ``target`` is your own metadata with our tables attached; without it, our tables alone are made, as if by
    ``txp db upgrade``. What Alembic looks after is left alone: the whole database where your own chain has its
    version table, and our tables where ``txp db upgrade`` has.
    """
    tables = (target or metadata).sorted_tables
    schemas = {schema_of(connection), *(schema_of(connection, table) for table in tables)}
    inspector = sa.inspect(connection)
    there = {schema: set(inspector.get_table_names(schema=schema)) for schema in schemas}
    present = there[schema_of(connection)]
    if USERS_VERSION_TABLE in present:
        return []
    upgraded = VERSION_TABLE in present and not _is_older_file(connection)
    tables = [table for table in tables if not (upgraded and table.name in metadata.tables)]
    missing = [table for table in tables if table.name not in there[schema_of(connection, table)]]
    (target or metadata).create_all(connection, tables=missing, checkfirst=False)
    if not upgraded:
        if VERSION_TABLE in present:
            connection.execute(sa.update(_VERSION).values(version_num=SCHEMA_REVISION))
        elif target is None and not present & set(metadata.tables):
            _VERSION.create(connection)
            connection.execute(sa.insert(_VERSION).values(version_num=SCHEMA_REVISION))
        ensure_identity(connection)
    return [table.name for table in missing]


def _is_older_file(connection: Connection) -> bool:
    """Whether a SQLite file is of a release before, and lacks nothing but whole tables: those are made at the start."""
    if not is_sqlite(connection):
        return False
    version = connection.execute(sa.select(_VERSION.c.version_num)).scalar()
    present = _present(connection)
    missing = [name for name in _parts() if not _is_there(name, present)]
    return version is not None and version < SCHEMA_REVISION and DISPENSABLE.issuperset(missing)


def verify(connection: Connection, needs: Collection[str] = ()) -> None:
    """Make sure that the tables fit this version: its own, and those of the release before and after it.

    ``needs`` names tables that are used here, so that they must be there although they are new.

    Raises:
        SchemaError: what is missing, and the command that mends it.
    """
    present = _present(connection)
    missing = [name for name in _parts() if not _is_there(name, present)]
    dispensable = DISPENSABLE.difference(needs)
    needed = [name for name in missing if name not in dispensable and name.split(".")[0] not in dispensable]
    if not needed:
        version = ensure_identity(connection, complete=not missing)
        if version > SCHEMA_VERSION + 1:
            raise SchemaError(
                f"The tables are of version {version}, and this release knows {SCHEMA_VERSION}.",
                fix="Install the newer release: pip install --upgrade txpatterns",
            )
        return
    shown = ", ".join(needed[:5]) + (" ..." if len(needed) > 5 else "")
    if database_table.name not in present:
        raise _all_missing(connection, shown)
    fix = SchemaError.fix if VERSION_TABLE in present else _OWN_CHAIN
    raise SchemaError(f"Missing here: {shown}.", fix=fix)


def _all_missing(connection: Connection, shown: str) -> SchemaError:
    """Say that there are no tables of ours, or that they are elsewhere, and what mends it."""
    schema, others = schema_of(connection), schemas_with_tables(connection)
    where = f"schema {schema} of this database" if schema else "this database"
    if others:
        return SchemaError(
            f"The tables of txpatterns are missing in {where}, but there are some in schema {', '.join(others)}.",
            fix=f"To use those, give App the metadata that they are attached to, or set {SCHEMA}={others[0]}. "
            f"To have others here, run: txp db upgrade",
        )
    fix = SchemaError.fix
    if sa.inspect(connection).has_table(USERS_VERSION_TABLE):
        fix = f"{fix}, or, if the tables are attached to your metadata: {_OWN_CHAIN}"
    return SchemaError(f"The tables of txpatterns are missing in {where}: {shown}.", fix=fix)


def ensure_identity(connection: Connection, *, complete: bool = True) -> int:
    """Give the database its uid if it has none, and note the version if its tables are complete; gives the version."""
    found = connection.execute(sa.select(database_table.c.version)).scalar()
    if found is None:
        # Two processes that start together must not give two uids; on SQLite there is one writer anyway.
        if not is_sqlite(connection):
            name = qualified(database_table, connection)
            connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
        if connection.execute(sa.select(database_table.c.uid)).first() is None:
            connection.execute(sa.insert(database_table).values(uid=new_id(), version=SCHEMA_VERSION))
        return SCHEMA_VERSION
    if complete and found < SCHEMA_VERSION:
        connection.execute(sa.update(database_table).values(version=SCHEMA_VERSION))
        return SCHEMA_VERSION
    return int(found)


def _present(connection: Connection) -> dict[str, set[str]]:
    """Give our tables that are there, each with its columns."""
    wanted = [*metadata.tables, VERSION_TABLE]
    if not is_sqlite(connection):
        found = sa.inspect(connection).get_multi_columns(schema=schema_of(connection), filter_names=wanted)
        return {table: {column["name"] for column in columns} for (_schema, table), columns in found.items()}
    # Reflection on SQLite parses each table's text, which would be most of an application's start.
    query = sa.text("SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'")
    present: dict[str, set[str]] = {}
    for table, column in connection.execute(query):
        if table in wanted:
            present.setdefault(table, set()).add(column)
    return present


def _parts() -> list[str]:
    """List our tables and columns in the order in which a reader wants to hear what is missing: tables first."""
    columns = [f"{table.name}.{column.name}" for table in metadata.sorted_tables for column in table.columns]
    return [table.name for table in metadata.sorted_tables] + columns


def _is_there(name: str, present: dict[str, set[str]]) -> bool:
    table, _, column = name.partition(".")
    if table not in present:
        return bool(column)  # the table itself is in the list already
    return not column or column in present[table]
