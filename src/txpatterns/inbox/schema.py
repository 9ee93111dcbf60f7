"""The inbox's tables: what was handled, and what waits to be handled again."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from txpatterns.database.schema import BigIdentity, Instant, metadata


class State(StrEnum):
    """Why a message waits at a consumer."""

    RETRYING = "retrying"
    """Its handler failed; its key waits with it until its next attempt."""
    BEHIND = "behind"
    """An earlier message of its key waits."""
    PARKED = "parked"
    """It is a dead letter, and its key waits behind it until an operator lets it go on."""
    SKIPPED = "skipped"
    """Its handler failed; it is tried again while its key goes on without it."""


inbox_table = sa.Table(
    "txp_inbox",
    metadata,
    sa.Column("consumer", sa.String(200), primary_key=True),
    sa.Column("message_id", sa.String(200), primary_key=True),
    sa.Column("fingerprint", sa.String(64), comment="of the content; NULL: the claim gave none"),
    sa.Column("processed_at", Instant, nullable=False),
    sa.Index("ix_txp_inbox_processed_at", "processed_at"),
    comment="whose effect is committed, by consumer; a row commits with that effect and never without it",
)

_DUE = sa.text("due_at IS NOT NULL")

inbox_waiting_table = sa.Table(
    "txp_inbox_waiting",
    metadata,
    sa.Column("id", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("consumer", sa.String(200), nullable=False),
    sa.Column("message_id", sa.String(200), nullable=False),
    sa.Column("lane", sa.String(64), nullable=False, comment="digest of topic and key: what is handled in order"),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("topic", sa.String(200), nullable=False),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("content_type", sa.String(100), nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, comment="written before each attempt"),
    sa.Column("due_at", Instant, comment="NULL: it waits for what is before it in its lane"),
    sa.Column("error", sa.Text),
    # Each index begins with what its statements look for, and so serves no others: a server that knows the table as
    # empty takes any index that it can use, and reads all of a consumer's rows through it.
    sa.UniqueConstraint("message_id", "consumer", name="uq_txp_inbox_waiting_message"),
    sa.Index("ix_txp_inbox_waiting_lane", "lane", "consumer", "id"),
    sa.Index("ix_txp_inbox_waiting_due", "consumer", "due_at", postgresql_where=_DUE, sqlite_where=_DUE),
    # Only the first of a lane is ever due. The database sees to it, so that two processes cannot make two heads.
    sa.Index("uq_txp_inbox_waiting_head", "lane", "consumer", unique=True, postgresql_where=_DUE, sqlite_where=_DUE),
    sqlite_autoincrement=True,
    comment="received and not yet handled; the lowest id of a lane has a due time or is parked",
)
