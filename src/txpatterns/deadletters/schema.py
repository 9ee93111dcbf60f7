"""The table of dead letters: the message verbatim, where it died and why."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.schema import BigIdentity, Instant, metadata

dead_letter_table = sa.Table(
    "txp_dead_letter",
    metadata,
    sa.Column("id", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("consumer", sa.String(200), comment="who could not handle it; NULL: it could not be published"),
    sa.Column("message_id", sa.String(200), nullable=False),
    sa.Column("topic", sa.String(200), nullable=False),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("content_type", sa.String(100), nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("position", sa.BigInteger, comment="its place in the outbox, when it died there"),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.String(50), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("died_at", Instant, nullable=False),
    sa.Index("ix_txp_dead_letter_message", "message_id"),
    sqlite_autoincrement=True,
)
