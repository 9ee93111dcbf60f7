"""Which database a transaction is in: decided by a row in our own schema, never by comparing engines or URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite, sqlstate
from txpatterns.database.engines import apart, schema_of, sync_side
from txpatterns.database.home import schemas_with_tables
from txpatterns.database.schema import SCHEMA_VERSION, database_table
from txpatterns.database.setup import ensure_identity
from txpatterns.errors import SchemaError, WrongDatabase

_ROW = sa.select(database_table.c.uid, database_table.c.version)


class Identity:
    """Checks, once for each engine, that a transaction is in the same database as the tables of a ``Database``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._uid: str | None = None
        self._seen: WeakKeyDictionary[Pool, set[str | None]] = WeakKeyDictionary()

    def is_home(self, connection: Connection) -> bool:
        """Whether a connection comes from the engine that the ``Database`` was given."""
        return connection.engine.pool is sync_side(self.database.engine).pool

    def check(self, connection: Connection) -> None:
        """Make sure that what is written here, into the schema of our tables, lands where the library reads.

        Raises:
            WrongDatabase: the transaction is in another database, or its ``schema_translate_map`` in another schema.
            SchemaError: our tables are missing, or of another time.
        """
        if connection.dialect.name != self.database.dialect:
            raise WrongDatabase("This transaction is in another database than the one that txpatterns was given.")
        schema, mapped = self.database.home.schema_beside(connection), schema_of(connection)
        if mapped in self._seen.get(connection.engine.pool, ()):
            return
        if mapped not in (None, schema) and mapped in schemas_with_tables(connection):
            raise WrongDatabase(
                f"The schema_translate_map of this transaction leads to {mapped}, which has tables of txpatterns, too.",
                fix=f"One App for each; the tables of this one are in {schema}.",
            )
        uid = self._read(connection, will_write=True)
        if not self.is_home(connection) and (uid is None or uid != self._uid):
            self._compare(connection, uid)
        self._seen.setdefault(connection.engine.pool, set()).add(mapped)

    def _compare(self, connection: Connection, uid: str | None) -> None:
        # What was known may be of tables that were dropped and made again, or emptied, as test suites do.
        self._uid = apart(self.database.engine, connection, self._of_own)
        uid = uid or self._read(connection)
        if uid is None:
            raise SchemaError("This database has no uid yet.", fix="Start the App once, or await app.prepare().")
        if uid != self._uid:
            raise WrongDatabase("This transaction is in another database than the one that txpatterns was given.")

    def _of_own(self, own: Connection) -> str | None:
        uid = self._read(own)
        if uid is None and not is_sqlite(own):  # where the transaction that waits for this one may be the writer
            self.database.home.take_from(own)
            ensure_identity(own)
            uid = read_uid(own)
        return uid

    def _read(self, connection: Connection, *, will_write: bool = False) -> str | None:
        with _naming_what_is_missing():
            if will_write and is_sqlite(connection):
                # A transaction that begins by reading fails at its first write if another wrote in between.
                self.database.execute_beside(connection, sa.delete(database_table).where(sa.false()))
            return _uid_in(self.database.execute_beside(connection, _ROW).first())

    async def learn(self) -> str:
        """Find out which database this is; the check of every engine compares with it."""
        await self.database.locate()
        uid = await self.database.read(_uid_of_primary)
        if uid is None:  # somebody has emptied the table
            await self.database.transact(ensure_identity)
            uid = await self.database.read(read_uid)
        self._uid = uid
        return uid


def read_uid(connection: Connection) -> str:
    """Read the uid of the database, on a connection of the library's own.

    Raises:
        SchemaError: our tables are missing, of another time, or without a uid.
    """
    uid = _read_uid(connection)
    if uid is None:
        raise SchemaError("This database has no uid yet.", fix="Start the App once, or run: txp db upgrade")
    return uid


def _read_uid(connection: Connection) -> str | None:
    with _naming_what_is_missing():
        return _uid_in(connection.execute(_ROW).first())


def _uid_of_primary(connection: Connection) -> str | None:
    if connection.dialect.name == "postgresql" and connection.scalar(sa.text("SELECT pg_is_in_recovery()")):
        raise WrongDatabase(
            "This is a standby: it may be behind, and nothing can be settled there.", fix="Connect to the primary."
        )
    return _read_uid(connection)


def _uid_in(found: Any) -> str | None:
    if found is None:
        return None
    if found.version < SCHEMA_VERSION - 1:
        raise SchemaError(f"The tables of txpatterns are of version {found.version}, and {SCHEMA_VERSION} is needed.")
    return str(found.uid)


@contextmanager
def _naming_what_is_missing() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) in ("42P01", "3F000") or "no such table" in str(error.orig):
            raise SchemaError("The tables of txpatterns are missing in this database.") from error
        raise
