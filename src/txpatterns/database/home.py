"""Where our tables are: found out once, and then said in full by every statement of ours.

What a name without a schema means is up to the session: ``SET LOCAL search_path``, as in "a schema per tenant", would
lead a message into a table that no relay reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import WRITES, AnyEngine, apart, keep_settings, own_engine, schema_of, sync_side
from txpatterns.database.schema import database_table
from txpatterns.database.second import plain_engine
from txpatterns.errors import ConfigurationError, SchemaError

SCHEMA = "TXP_SCHEMA"
"""The variable that names the schema of our tables."""

_SCHEMAS = f"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = '{database_table.name}'"
_LOOK = sa.text(
    f"SELECT (SELECT n.nspname {_SCHEMAS} AND c.oid = to_regclass('{database_table.name}')) AS schema, "
    "current_setting('default_transaction_isolation') AS isolation, "
    "current_setting('standard_conforming_strings') AS strings, current_setting('DateStyle') AS dates"
)
_ELSEWHERE = sa.text(f"SELECT n.nspname {_SCHEMAS} AND c.relkind IN ('r', 'p') ORDER BY n.nspname")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database says: the schema of our tables, if there are any, and the usual isolation of transactions."""

    schema: str | None
    isolation: str


def base_engine(engine: AnyEngine) -> AnyEngine:
    """Make the engine of the library's own work.

    On SQLite a plain one, if it can be made: a whole transaction is one turn of a thread, where an asynchronous one
    takes five.
    """
    if isinstance(engine, AsyncEngine) and engine.dialect.name == "sqlite":
        with suppress(ConfigurationError):
            return plain_engine(engine, is_pooled=False)
    return own_engine(engine)


class Home:
    """The schema of our tables, and the engines of the library's own work, which name it in every statement.

    ``is_pooled``: the application's engine leads through a pooler in transaction mode.
    """

    def __init__(self, engine: AnyEngine, *, schema: str | None, is_pooled: bool) -> None:
        self.engine = engine
        self.base = base_engine(engine)
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.is_pooled = is_pooled
        if not is_pooled:
            keep_settings(sync_side(self.base))
        self.is_located = False
        """Whether there is no need to look again."""
        self._declared = schema
        self._usual = schema_of(sync_side(engine))
        self._found: _Found | None = None
        self._settle(_Found(schema or self._usual, ""))

    def declare(self, attached: str | None) -> None:
        """Say which schema the application's metadata has for our tables; None leaves it to the engine.

        Raises:
            ConfigurationError: another one was given.
        """
        options: Mapping[str, Any] = sync_side(self.engine).get_execution_options()
        meant = (options.get("schema_translate_map") or {}).get(attached, attached)
        if self._declared not in (None, meant):
            where = "without a schema" if meant is None else f"in schema {meant}"
            raise ConfigurationError(
                f"The tables of txpatterns are attached {where}, but {self._declared} is set.",
                fix="Name one schema: attach(metadata, schema=...) decides, and nothing else needs to name it.",
            )
        if meant is not None:
            self._declared, self.is_located = meant, False
            self._settle(_Found(meant, ""))

    def take_from(self, own: Connection) -> None:
        """Ask a connection of our own, whose session nobody has changed; it, too, names the schema from now on.

        Raises:
            ConfigurationError: SQLite has no such schema.
        """
        self._take(self._look(own))
        if self.schema is not None:
            own.execution_options(schema_translate_map={None: self.schema})

    def schema_beside(self, connection: Connection) -> str | None:
        """Give the schema for a statement in somebody else's transaction; None: name none.

        Looked up on a connection of our own if need be: what a name means in that transaction says nothing.

        Raises:
            SchemaError: there are no tables of ours.
        """
        if not self.is_located:
            self._take(self._look(connection) if self.is_sqlite else apart(self.engine, connection, self._look))
            if not self.is_located:
                raise SchemaError("The tables of txpatterns are missing in this database.")
        return self.schema

    def _look(self, own: Connection) -> _Found:
        if self.is_sqlite:
            return _Found(self.schema, "")
        found = own.execute(_LOOK).one()
        if own.dialect.driver.startswith("psycopg") and (found.strings != "on" or not found.dates.startswith("ISO")):
            raise ConfigurationError(
                "psycopg stores other bytes where standard_conforming_strings is off, and reads only ISO style times.",
                fix="ALTER ROLE ... SET standard_conforming_strings = on, and SET DateStyle = ISO; or use asyncpg.",
            )
        return _Found(self._declared or self._usual or found.schema, found.isolation)

    def _take(self, found: _Found) -> None:
        if self.is_sqlite and found.schema not in (None, "main"):
            raise ConfigurationError(
                f"A SQLite file has no schema {found.schema!r}.",
                fix=f"Leave it out, or use engine.execution_options(schema_translate_map={{{found.schema!r}: None}}).",
            )
        self._settle(found)
        self.is_located = self.is_sqlite or found.schema is not None

    def _settle(self, found: _Found) -> None:
        self.schema = found.schema
        if found == self._found:
            return
        self._found = found
        self.is_read_committed = found.isolation == "read committed"
        named: dict[str, Any] = {} if found.schema is None else {"schema_translate_map": {None: found.schema}}
        # Whatever is usual there: at a higher level our work would make the application's transactions fail.
        usual = named if self.is_sqlite else {**named, "isolation_level": "READ COMMITTED"}
        # A single statement needs no BEGIN and COMMIT around it, except behind a pooler: there asyncpg's PREPARE
        # and EXECUTE meet the same server connection only inside a transaction.
        is_alone = self.is_read_committed and not self.is_pooled
        single = {**named, "isolation_level": "AUTOCOMMIT"} if is_alone else usual
        # An engine with options costs more to make than most statements cost to run. Two are made of the base: of two
        # isolation levels, one upon the other, the first would win.
        self.own = self.base.execution_options(**usual)
        self.reads = self.base.execution_options(**single)
        self.writes = self.own.execution_options(**{WRITES: True})


def schemas_with_tables(connection: Connection) -> list[str]:
    """Give the schemas that have tables of ours, wherever the search path leads."""
    return [] if is_sqlite(connection) else list(connection.execute(_ELSEWHERE).scalars())
