"""The outbox's tables: what is to be published now, what waits, and what was sent (where that is kept)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.engines import qualified
from txpatterns.database.schema import BigIdentity, Instant, metadata


def message_columns() -> list[sa.Column[Any]]:
    """Make the columns that hold a message verbatim."""
    return [
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("bucket", sa.SmallInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("content_type", sa.String(100), nullable=False),
        sa.Column("occurred_at", Instant, nullable=False),
    ]


COLUMNS = ("message_id", *(column.name for column in message_columns()))
"""The columns that hold a message verbatim, in every table of the outbox, with its id in front."""


SCOPE = "outbox"
"""The scope of the leases: one for each bucket of the outbox."""


class Waiting(StrEnum):
    """Why a message is not in the outbox proper."""

    SCHEDULED = "scheduled"
    """Added with ``deliver_after``; it enters the outbox when due."""
    RETRYING = "retrying"
    """The broker refused it; its key waits with it until its next attempt."""
    SKIPPED = "skipped"
    """The broker refused it; its key goes on without it."""
    BEHIND = "behind"
    """An earlier message of its key is being retried."""
    PARKED = "parked"
    """An earlier message of its key is a dead letter, and an operator decides."""


outbox_table = sa.Table(
    "txp_outbox",
    metadata,
    sa.Column("position", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("message_id", sa.String(64), nullable=False, unique=True),
    *message_columns(),
    sqlite_autoincrement=True,
    comment="committed and not yet published; a row goes when the broker has confirmed it",
)

waiting_table = sa.Table(
    "txp_outbox_waiting",
    metadata,
    sa.Column("message_id", sa.String(64), primary_key=True),
    sa.Column("position", sa.BigInteger, comment="its place in the order of its key; NULL while scheduled"),
    *message_columns(),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due_at", Instant, comment="NULL: it waits for another message of its key"),
    sa.Column("error", sa.Text),
    sa.Index("ix_txp_outbox_waiting_due", "due_at"),
    sa.Index("ix_txp_outbox_waiting_key", "bucket", "topic", "key", "position"),
)

sent_table = sa.Table(
    "txp_outbox_sent",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("message_id", sa.String(64), nullable=False),
    *message_columns(),
    sa.Column("sent_at", Instant, primary_key=True),
    sa.Index("ix_txp_outbox_sent_at", "sent_at"),
    sa.Index("ix_txp_outbox_sent_message", "message_id"),
    postgresql_partition_by="RANGE (sent_at)",
)


@sa.event.listens_for(sent_table, "after_create")
def _make_default_partition(table: sa.Table, connection: Connection, **_given: Any) -> None:
    """Make what the migration makes, too, so that a relay that keeps messages need not have the right to."""
    if connection.dialect.name == "postgresql":
        parent = qualified(table, connection)
        connection.exec_driver_sql(f"CREATE TABLE {parent}_default PARTITION OF {parent} DEFAULT")
