"""All tables of the first release."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, never made of the classes of the day: a migration says the same for ever.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def message_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("bucket", sa.SmallInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("content_type", sa.String(100), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=False),
    ]


def upgrade() -> None:
    the_database()
    the_outbox()
    the_inbox()
    the_dead_letters()
    tune()


def the_database() -> None:
    op.create_table(
        "txp_database",
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
    )
    uid = "lower(hex(randomblob(16)))" if op.get_context().dialect.name == "sqlite" else "gen_random_uuid()::text"
    op.execute(f"INSERT INTO txp_database (uid, version) VALUES ({uid}, 1)")
    op.create_table(
        "txp_member",
        sa.Column("scope", sa.String(200), primary_key=True),
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
    )
    op.create_table(
        "txp_lease",
        sa.Column("scope", sa.String(200), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )


def the_outbox() -> None:
    op.create_table(
        "txp_outbox",
        sa.Column("position", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("message_id", sa.String(64), nullable=False, unique=True),
        *message_columns(),
        sqlite_autoincrement=True,
        comment="committed and not yet published; a row goes when the broker has confirmed it",
    )
    op.create_table(
        "txp_outbox_waiting",
        sa.Column("message_id", sa.String(64), primary_key=True),
        sa.Column("position", sa.BigInteger, comment="its place in the order of its key; NULL while scheduled"),
        *message_columns(),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", INSTANT, comment="NULL: it waits for another message of its key"),
        sa.Column("error", sa.Text),
    )
    op.create_index("ix_txp_outbox_waiting_due", "txp_outbox_waiting", ["due_at"])
    op.create_index("ix_txp_outbox_waiting_key", "txp_outbox_waiting", ["bucket", "topic", "key", "position"])
    op.create_table(
        "txp_outbox_sent",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.String(64), nullable=False),
        *message_columns(),
        sa.Column("sent_at", INSTANT, primary_key=True),
        postgresql_partition_by="RANGE (sent_at)",
    )
    if op.get_context().dialect.name == "postgresql":
        # The relay makes partitions by time where it may, and needs a place for messages where it may not.
        op.execute("CREATE TABLE txp_outbox_sent_default PARTITION OF txp_outbox_sent DEFAULT")
    op.create_index("ix_txp_outbox_sent_at", "txp_outbox_sent", ["sent_at"])
    op.create_index("ix_txp_outbox_sent_message", "txp_outbox_sent", ["message_id"])


def the_inbox() -> None:
    op.create_table(
        "txp_inbox",
        sa.Column("consumer", sa.String(200), primary_key=True),
        sa.Column("message_id", sa.String(200), primary_key=True),
        sa.Column("fingerprint", sa.String(64), comment="of the content; NULL: the claim gave none"),
        sa.Column("processed_at", INSTANT, nullable=False),
        comment="whose effect is committed, by consumer; a row commits with that effect and never without it",
    )
    op.create_index("ix_txp_inbox_processed_at", "txp_inbox", ["processed_at"])
    op.create_table(
        "txp_inbox_waiting",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
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
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, comment="written before each attempt"),
        sa.Column("due_at", INSTANT, comment="NULL: it waits for what is before it in its lane"),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("message_id", "consumer", name="uq_txp_inbox_waiting_message"),
        sqlite_autoincrement=True,
        comment="received and not yet handled; the lowest id of a lane has a due time or is parked",
    )
    op.create_index("ix_txp_inbox_waiting_lane", "txp_inbox_waiting", ["lane", "consumer", "id"])
    due = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_txp_inbox_waiting_due",
        "txp_inbox_waiting",
        ["consumer", "due_at"],
        postgresql_where=due,
        sqlite_where=due,
    )
    op.create_index(
        "uq_txp_inbox_waiting_head",
        "txp_inbox_waiting",
        ["lane", "consumer"],
        unique=True,
        postgresql_where=due,
        sqlite_where=due,
    )


def the_dead_letters() -> None:
    op.create_table(
        "txp_dead_letter",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("consumer", sa.String(200), comment="who could not handle it; NULL: it could not be published"),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("content_type", sa.String(100), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("position", sa.BigInteger, comment="its place in the outbox, when it died there"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(50), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("died_at", INSTANT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_txp_dead_letter_message", "txp_dead_letter", ["message_id"])


def tune() -> None:
    """PostgreSQL: vacuum by the number of dead rows, not by a share of a table that is usually empty."""
    if op.get_context().dialect.name != "postgresql":
        return
    for table in ("txp_outbox", "txp_outbox_waiting", "txp_inbox_waiting"):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, "
            "autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000)"
        )
    for table in ("txp_member", "txp_lease"):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
