"""The tables of the database as a broker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    who_reads_what()
    what_each_has_still_to_read()
    tune()


def who_reads_what() -> None:
    op.create_table(
        "txp_queue_reader",
        sa.Column("topic", sa.String(200), primary_key=True),
        sa.Column("consumer_group", sa.String(200), primary_key=True),
        sa.Column("declared_at", INSTANT, nullable=False),
        sa.Column("read_at", INSTANT, nullable=False, comment="when a member was last known to read it, to the hour"),
        comment="who gets a copy of what is published to a topic; it outlives the processes, until an operator "
        "removes it",
    )


def what_each_has_still_to_read() -> None:
    op.create_table(
        "txp_queue",
        sa.Column("position", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("consumer_group", sa.String(200), nullable=False),
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("part", sa.SmallInteger, nullable=False, comment="of the topic's keys: what is read in order"),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("content_type", sa.String(100), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("published_at", INSTANT, nullable=False),
        sqlite_autoincrement=True,
        comment="published and not yet handled, a row for each group; positions become visible in their order",
    )
    op.create_index("ix_txp_queue_group", "txp_queue", ["consumer_group", "position"])


def tune() -> None:
    """PostgreSQL: vacuum by the number of dead rows, not by a share of a table that is usually empty."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE txp_queue SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, "
            "autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000)"
        )
