"""What all our tables share: their metadata, the type of instants, and the two tables of the database itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 1
"""Raised with each migration; an older or newer neighbour by one must still work."""

SCHEMA_REVISION = "0001"
"""The migration that made this version."""

DISPENSABLE: frozenset[str] = frozenset()
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

member_table = sa.Table(
    "txp_member",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
)

lease_table = sa.Table(
    "txp_lease",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)


def attach(target: sa.MetaData) -> sa.MetaData:
    """Add our tables to your own metadata, so that your Alembic autogenerate makes one chain with them.

    Gives ``target`` back. Tables that are there already stay as they are. The copies use only types of SQLAlchemy's
    own, so that a generated migration needs no import of ours.
    """
    for table in metadata.sorted_tables:
        if table.name not in target.tables:
            for column in table.to_metadata(target).columns:
                if isinstance(column.type, Instant):
                    column.type = sa.DateTime(timezone=True)
    return target


def not_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Alembic's ``include_name``, for your own chain when ``txp db upgrade`` makes our tables: it leaves them out."""
    return kind not in ("table", "schema") or not (name or "").startswith("txp_")
