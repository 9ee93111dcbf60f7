"""The tables as Alembic migrations, under a version table of their own: never a second head in your chain.

Alembic is imported here and nowhere else, so only a command that migrates loads it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import schema_of
from txpatterns.database.schema import USERS_VERSION_TABLE, VERSION_TABLE, metadata
from txpatterns.errors import ConfigurationError

_SEARCH = sa.text("SELECT set_config('search_path', :path, true)")


@dataclass(frozen=True, slots=True)
class MigrationState:
    """Where a database stands. ``differences`` tells, in words, how its tables differ from those of this version."""

    current: str | None
    head: str
    differences: tuple[str, ...]

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        return not self.differences


def upgrade(connection: Connection) -> MigrationState:
    """Bring the tables up to this version, in the connection's transaction; gives the state before and after.

    Call it in a transaction that is committed by the caller. Several processes at once wait for each other, and on
    PostgreSQL a table that is locked by others is waited for two seconds at most, so that a migration never stands
    in the way of the application's own queue. Tables that an App made at its first start, on SQLite, are taken over.

    Raises:
        ConfigurationError: something else made the tables, and looks after them.
    """
    with _at_home(connection):
        before = current_revision(connection)
        config = _config()
        config.attributes["connection"] = connection
        if before is None and (present := _tables(connection)):
            if not _made_at_a_start(connection):
                raise ConfigurationError(
                    f"The tables {', '.join(present[:3])} ... are here, but not made by `txp db upgrade`.",
                    fix="Go on with what made them: your own Alembic chain (see the how-to on migrations).",
                )
            command.stamp(config, "head")
        command.upgrade(config, "head")
    return MigrationState(before, head_revision(), ())


def check(connection: Connection) -> MigrationState:
    """Compare the tables with those that this version defines. Changes nothing."""
    schema = schema_of(connection)
    if schema == connection.dialect.default_schema_name:
        schema = None  # Alembic knows that one without its name
    opts = {"version_table": VERSION_TABLE, "compare_type": True, "include_schemas": schema is not None}
    context = MigrationContext.configure(connection, opts={**opts, "include_name": partial(_is_ours, schema)})
    expected = sa.MetaData(schema=schema)
    for table in metadata.sorted_tables:
        table.to_metadata(expected)
    found = compare_metadata(context, expected)
    return MigrationState(current_revision(connection), head_revision(), tuple(_words(found)))


def sql(dialect: str, schema: str | None = None) -> str:
    """Give the statements of all migrations as text, for whoever runs them by hand: ``postgresql`` or ``sqlite``."""
    written = io.StringIO()
    config = _config(written)
    config.attributes["dialect"] = dialect
    config.attributes["schema"] = schema
    command.upgrade(config, "head", sql=True)
    return written.getvalue()


def head_revision() -> str:
    """Give the newest revision in the package."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def current_revision(connection: Connection) -> str | None:
    """Give the revision that the database stands at; None when ``txp db upgrade`` never ran there."""
    opts = {"version_table": VERSION_TABLE, "version_table_schema": schema_of(connection)}
    return MigrationContext.configure(connection, opts=opts).get_current_revision()


@contextmanager
def _at_home(connection: Connection) -> Iterator[None]:
    """Let names without a schema, Alembic's and those in plain SQL, mean the schema of our tables.

    Raises:
        ConfigurationError: there is no such schema, or none at all.
    """
    if is_sqlite(connection):
        yield
        return
    schema = schema_of(connection)
    name = schema if schema is not None else connection.scalar(sa.text("SELECT current_schema()"))
    if name is None or not sa.inspect(connection).has_schema(name):
        which = "The search path names no schema that there is." if name is None else f"There is no schema {name}."
        raise ConfigurationError(which, fix=f"As somebody who may, run: CREATE SCHEMA {name or '...'}")
    before = connection.scalar(sa.text("SELECT current_setting('search_path')"))
    if schema is not None:
        quoted = connection.dialect.identifier_preparer.quote(schema)
        connection.execute(_SEARCH, {"path": quoted})
    yield
    connection.execute(_SEARCH, {"path": before})


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    # Alembic expands percent signs as configuration files do.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _tables(connection: Connection) -> list[str]:
    present = set(sa.inspect(connection).get_table_names())
    return [table.name for table in metadata.sorted_tables if table.name in present]


def _made_at_a_start(connection: Connection) -> bool:
    """Whether the tables are what an App makes on SQLite, and no chain of migrations looks after them."""
    if not is_sqlite(connection) or sa.inspect(connection).has_table(USERS_VERSION_TABLE):
        return False
    return not check(connection).differences


def _is_ours(schema: str | None, name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":
        return name == schema
    return kind != "table" or (name is not None and name in metadata.tables)


def _words(found: list[object]) -> list[str]:
    flat = [item for group in found for item in (group if isinstance(group, list) else [group])]
    return [_word(item) for item in flat if isinstance(item, tuple)]


def _word(item: tuple[object, ...]) -> str:
    action = str(item[0]).replace("_", " ")
    names = [part if isinstance(part, str) else getattr(part, "name", None) for part in item[1:]]
    return f"{action} {'.'.join(str(name) for name in names if name)}"
