"""The tables of the database as a broker: who reads what, what each has still to read, and what operators did."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.schema import BigIdentity, Instant, deed_columns, metadata

PARTS = 32
"""Into how many parts the keys of a topic are divided, each read by one member of a group at a time. A constant of the
schema."""

reader_table = sa.Table(
    "txp_queue_reader",
    metadata,
    sa.Column("topic", sa.String(200), primary_key=True),
    sa.Column("consumer_group", sa.String(200), primary_key=True),
    sa.Column("declared_at", Instant, nullable=False),
    sa.Column("read_at", Instant, nullable=False, comment="when a member was last known to read it, to the hour"),
    comment="who gets a copy of what is published to a topic; it outlives the processes, until an operator removes it",
)

queue_table = sa.Table(
    "txp_queue",
    metadata,
    sa.Column("position", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("consumer_group", sa.String(200), nullable=False),
    sa.Column("topic", sa.String(200), nullable=False),
    sa.Column("part", sa.SmallInteger, nullable=False, comment="of the topic's keys: what is read in order"),
    sa.Column("message_id", sa.String(200), nullable=False),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("content_type", sa.String(100), nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("published_at", Instant, nullable=False),
    sa.Index("ix_txp_queue_group", "consumer_group", "position"),
    sqlite_autoincrement=True,
    comment="published and not yet handled, a row for each group; positions become visible in their order",
)

queue_audit_table = sa.Table(
    "txp_queue_audit",
    metadata,
    *deed_columns(),
    sa.Column("consumer_group", sa.String(200), nullable=False),
    sa.Column("topic", sa.String(200), comment="the topic that it was about; NULL: all of the group's"),
    sa.Column("topics", sa.Integer, nullable=False, comment="how many it was no reader of any more"),
    sa.Column("messages", sa.BigInteger, nullable=False, comment="how many waited for it"),
    sqlite_autoincrement=True,
    comment="what operators did to groups; it holds no messages",
)
QUEUE_TABLES = (reader_table.name, queue_table.name)
"""What an App needs whose broker is this."""
