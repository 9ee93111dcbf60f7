"""What all our tables share: their metadata, the type of instants, and the two tables of the database itself."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 2
"""Raised with each release that has migrations; an older or newer neighbour by one must still work."""

SCHEMA_REVISION = "0008"
"""The last migration of this version."""

DISPENSABLE: frozenset[str] = frozenset(
    {
        "txp_audit",
        "txp_saga",
        "txp_saga_journal",
        "txp_saga_wait",
        "txp_saga_lock",
        "txp_saga_signal",
        "txp_saga_audit",
        "txp_id_worker",
        "txp_id_code",
        "txp_tcc",
        "txp_tcc_branch",
        "txp_tcc_barrier",
        "txp_tcc_audit",
        "txp_queue",
        "txp_queue_reader",
        "txp_queue_audit",
    }
)
"""The tables, and ``table.column`` names, that came with this version: the release works without them, so that it
can run before its migration does. A migration only adds, and what it adds may be left out of an INSERT, so that the
release before works on the new tables."""

VERSION_TABLE = "txp_alembic_version"
"""Where ``txp db upgrade`` keeps its place: apart from your own chain of migrations."""

USERS_VERSION_TABLE = "alembic_version"
"""Where your own chain keeps its place."""

metadata = sa.MetaData()
"""All our tables. ``App(metadata=Base.metadata)`` or ``attach(Base.metadata)`` makes them part of yours."""


class Instant(TypeDecorator[datetime]):
    """A point in time in UTC with microseconds: timestamptz, or on SQLite a text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        # PostgreSQL's drivers give aware values; every further call would cost the relay a microsecond per row.
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


BigIdentity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only in a column that is spelt INTEGER."""

database_table = sa.Table(
    "txp_database",
    metadata,
    sa.Column("uid", sa.String(36), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


def attach(target: sa.MetaData, schema: str | None = None) -> sa.MetaData:
    """Add our tables to your own metadata, so that your Alembic autogenerate makes one chain with them.

    Gives ``target`` back. They go to ``schema``, or else to the schema that ``target`` has; an App that is given this
    metadata finds them there. Tables that are there already stay as they are, wherever that is. The copies use only
    types of SQLAlchemy's own, so that a generated migration needs no import of ours.
    """
    present = {table.name for table in target.tables.values()}
    for table in metadata.sorted_tables:
        if table.name not in present:
            made = table.to_metadata(target) if schema is None else table.to_metadata(target, schema=schema)
            for column in made.columns:
                if isinstance(column.type, Instant):
                    column.type = sa.DateTime(timezone=True)
    return target


def attached_schema(target: sa.MetaData) -> str | None:
    """Give the schema that ``attach`` has put our tables in; None where they name none."""
    return next((table.schema for table in target.tables.values() if table.name == database_table.name), None)


def not_ours(subject: object, *told: object) -> bool:
    """Alembic's ``include_name`` and ``include_object``, for your own chain when ``txp db upgrade`` makes our tables.

    As ``include_name`` it hides from autogenerate those in the database, but for what is attached to the metadata that
    it compares with; as ``include_object`` those of the metadata.
    """
    named = subject is None or isinstance(subject, str)
    name, kind = (subject, told[0]) if named else told[:2]
    if kind not in ("table", "schema") or not str(name).startswith("txp_"):
        return True
    return named and name in metadata.tables and _are_attached_to_the_target()


def _are_attached_to_the_target() -> bool:
    """Whether the metadata that Alembic compares has our tables: where it has, to hide them says that they are new."""
    environment: Any = sys.modules.get("alembic.context")
    try:
        target = environment.get_context().opts["target_metadata"]
    except (AttributeError, NameError, KeyError):
        return False  # this was called by something else than an env.py
    targets = [target] if isinstance(target, sa.MetaData) else target or ()
    return any(table.name == database_table.name for one in targets for table in one.tables.values())


def deed_columns() -> list[sa.Column[Any]]:
    """Make the columns with which each table of what operators did begins."""
    return [
        sa.Column("id", BigIdentity, sa.Identity(), primary_key=True),
        sa.Column("done_at", Instant, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="why, in the operator's words"),
    ]
