"""The tables of sagas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    the_sagas()
    the_journal()
    what_they_wait_for()
    what_they_lock()
    what_operators_did()


def the_sagas() -> None:
    op.create_table(
        "txp_saga",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False, server_default="1"),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(36), comment="the member that runs it now"),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0", comment="raised by each claim"),
        sa.Column("due_at", INSTANT, comment="when it is to be claimed if nobody who lives owns it; NULL: never"),
        sa.Column(
            "crashes", sa.Integer, nullable=False, server_default="0", comment="owners that died without progress"
        ),
        sa.Column("attention", sa.Text, comment="why a person should look at it"),
        sa.Column("diverged", sa.Text, comment="the fingerprints of the code that could not go on from here"),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False, comment="of the arguments"),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("deadline_at", INSTANT, comment="when it is undone, if it is before its pivot then; NULL: never"),
        sa.Column("ended_at", INSTANT),
        sa.Column("parent", sa.BigInteger, comment="the number of the saga that has started it, and waits for it"),
        sa.Column("parent_path", sa.String(200), comment="of the operation that waits there"),
        sa.UniqueConstraint("type", "id", name="uq_txp_saga_type"),
        postgresql_with={"fillfactor": "70"},
        sqlite_autoincrement=True,
        comment="where each saga stands; ended ones stay for a while",
    )
    for name, column, needed in (
        ("ix_txp_saga_due", "due_at", "due_at"),
        ("ix_txp_saga_owner", "owner", "owner"),
        ("ix_txp_saga_attention", "number", "attention"),
        ("ix_txp_saga_ended", "ended_at", "ended_at"),
        ("ix_txp_saga_parent", "parent", "parent"),
    ):
        some = sa.text(f"{needed} IS NOT NULL")
        op.create_index(name, "txp_saga", [column], postgresql_where=some, sqlite_where=some)


def the_journal() -> None:
    op.create_table(
        "txp_saga_journal",
        sa.Column("saga", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        comment="what has happened in each saga, in order; a row for each write, but one for all failures alike",
    )


def what_they_wait_for() -> None:
    op.create_table(
        "txp_saga_wait",
        sa.Column("saga", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("path", sa.String(200), primary_key=True, comment="of the operation that waits"),
        sa.Column("kind", sa.String(10), nullable=False, comment="what it waits for"),
        sa.Column("channel", sa.String(300), nullable=False),
        sa.Column("key", sa.String(500), nullable=False),
        sa.Column("after", sa.BigInteger, nullable=False, comment="the last signal that the saga has had of these"),
        comment="what each saga waits for",
    )
    op.create_index("ix_txp_saga_wait_key", "txp_saga_wait", ["channel", "key"])
    op.create_table(
        "txp_saga_signal",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("channel", sa.String(300), nullable=False),
        sa.Column("key", sa.String(500), nullable=False),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.UniqueConstraint("channel", "key", "message_id", name="uq_txp_saga_signal_message"),
        sqlite_autoincrement=True,
        comment="events that sagas wait for, or will; kept for a while, whoever has had them",
    )
    op.create_index("ix_txp_saga_signal_received", "txp_saga_signal", ["received_at"])


def what_they_lock() -> None:
    op.create_table(
        "txp_saga_lock",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True, comment="the order in which sagas get a lock"),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("saga", sa.BigInteger, nullable=False),
        sa.Column("path", sa.String(200), nullable=False, comment="of the operation that has asked for it"),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("held_at", INSTANT, comment="since when the saga has it; NULL: it waits"),
        sqlite_autoincrement=True,
        comment="what each saga has locked until its end, and waits for",
    )
    op.create_index("ix_txp_saga_lock_name", "txp_saga_lock", ["name", "id"])
    op.create_index("ix_txp_saga_lock_saga", "txp_saga_lock", ["saga"])
    held = sa.text("held_at IS NOT NULL")
    op.create_index(
        "uq_txp_saga_lock_held", "txp_saga_lock", ["name"], unique=True, postgresql_where=held, sqlite_where=held
    )


def what_operators_did() -> None:
    op.create_table(
        "txp_saga_audit",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("done_at", INSTANT, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="why, in the operator's words"),
        sa.Column("saga", sa.BigInteger, nullable=False, comment="its number"),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("saga_id", sa.String(200), nullable=False),
        sa.Column("path", sa.Text, comment="the operation that it was about"),
        sa.Column("status", sa.String(20), nullable=False, comment="where the saga stood before"),
        sa.Column("attention", sa.Text, comment="what was told of it before"),
        sqlite_autoincrement=True,
        comment="what operators did to sagas; it holds no values",
    )
    op.create_index("ix_txp_saga_audit_saga", "txp_saga_audit", ["saga"])
