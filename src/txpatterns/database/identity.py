"""Which database a transaction is in: decided by a row in our own schema, never by comparing engines or URLs."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import schema_of, sync_side
from txpatterns.database.schema import SCHEMA_VERSION, database_table
from txpatterns.errors import SchemaError, WrongDatabase


class Identity:
    """Checks, once for each engine, that a transaction is in the same database as the outbox."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._uid: str | None = None
        self._seen: WeakKeyDictionary[Pool, set[str | None]] = WeakKeyDictionary()

    def is_home(self, connection: Connection) -> bool:
        """Whether a connection comes from the outbox's own engine."""
        return connection.engine.pool is sync_side(self.database.engine).pool

    def check(self, connection: Connection) -> None:
        """Raise WrongDatabase for a transaction of another database, SchemaError where our tables are missing."""
        pool, schema = connection.engine.pool, schema_of(connection)
        if schema in self._seen.get(pool, ()):
            return
        uid = read_uid(connection, will_write=True)
        if self._uid is None:
            self._uid = uid if self.is_home(connection) else self._read_own(connection)
        if uid != self._uid:
            raise WrongDatabase("This transaction is in another database, or another schema, than the outbox.")
        self._seen.setdefault(pool, set()).add(schema)

    def _read_own(self, beside: Connection) -> str:
        """Read the uid of the outbox's own database, in whichever way the caller's world can wait for it."""
        engine = self.database.engine
        plain = engine if isinstance(engine, Engine) or beside.dialect.is_async else self.database.sync_engine
        with sync_side(plain).connect() as connection:
            return read_uid(connection)

    async def learn(self) -> str:
        """Read the uid of the outbox's own database; the check of every engine compares with it."""
        uid = await self.database.read(_uid_of_primary)
        if self._uid is not None and self._uid != uid:
            raise WrongDatabase("Messages were added in another database than the one the relay reads.")
        self._uid = uid
        return uid


def read_uid(connection: Connection, *, will_write: bool = False) -> str:
    """Read the uid of the database. Raises SchemaError where our tables are missing or of another time."""
    try:
        if will_write and is_sqlite(connection):
            # A transaction that begins by reading fails at its first write if another wrote in between.
            connection.execute(sa.delete(database_table).where(sa.false()))
        found = connection.execute(sa.select(database_table.c.uid, database_table.c.version)).first()
    except DBAPIError as error:
        if _is_missing(error):
            raise SchemaError("The tables of txpatterns are missing in this database.") from error
        raise
    if found is None:
        raise SchemaError("This database has no uid yet.", fix="Start the App once, or run: txp db upgrade")
    if found.version < SCHEMA_VERSION - 1:
        raise SchemaError(f"The tables of txpatterns are of version {found.version}, and {SCHEMA_VERSION} is needed.")
    return str(found.uid)


def _uid_of_primary(connection: Connection) -> str:
    if connection.dialect.name == "postgresql" and connection.scalar(sa.text("SELECT pg_is_in_recovery()")):
        raise WrongDatabase(
            "This is a standby: it may be behind, and nothing can be settled there.", fix="Connect to the primary."
        )
    return read_uid(connection)


def _is_missing(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in ("42P01", "3F000") or "no such table" in str(error.orig)
