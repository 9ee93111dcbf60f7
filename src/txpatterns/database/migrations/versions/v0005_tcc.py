"""The tables of TCC."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    the_transactions()
    their_branches()
    what_others_have_asked_for()
    what_operators_did()


def the_transactions() -> None:
    op.create_table(
        "txp_tcc",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("app", sa.String(200), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(36), comment="who has begun it, or now brings it to its end"),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0", comment="raised by each claim"),
        sa.Column(
            "due_at", INSTANT, comment="when it is to be claimed if nobody who lives owns it; NULL: it has ended"
        ),
        sa.Column("expires_at", INSTANT, nullable=False, comment="when it is cancelled, unless it is decided before"),
        sa.Column(
            "crashes", sa.Integer, nullable=False, server_default="0", comment="owners that died without progress"
        ),
        sa.Column("attention", sa.Text, comment="why a person should look at it"),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.UniqueConstraint("app", "id", name="uq_txp_tcc_app"),
        postgresql_with={"fillfactor": "70"},
        sqlite_autoincrement=True,
        comment="where each TCC transaction stands; ended ones stay for a while",
    )
    for name, column, condition in (
        ("ix_txp_tcc_due", "due_at", "due_at IS NOT NULL"),
        ("ix_txp_tcc_attention", "number", "attention IS NOT NULL"),
        ("ix_txp_tcc_ended", "ended_at", "ended_at IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "txp_tcc", [column], postgresql_where=where, sqlite_where=where)


def their_branches() -> None:
    op.create_table(
        "txp_tcc_branch",
        sa.Column("xid", sa.String(401), primary_key=True, comment="of the transaction: its app and its id"),
        sa.Column("branch", sa.String(200), primary_key=True),
        sa.Column("participant", sa.String(200), nullable=False),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("result", sa.Text, comment="what its try has returned; NULL: nothing"),
        sa.Column("mark", sa.BigInteger, comment="where a store beside the database stood when it reserved this"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0", comment="of what it is asked for now"),
        sa.Column("error", sa.Text, comment="of the last attempt that failed"),
        postgresql_with={"fillfactor": "70"},
        comment="what each participant has reserved for a transaction, and what became of it",
    )


def what_others_have_asked_for() -> None:
    op.create_table(
        "txp_tcc_barrier",
        sa.Column("xid", sa.String(401), primary_key=True),
        sa.Column("branch", sa.String(200), primary_key=True),
        sa.Column("operation", sa.String(10), primary_key=True),
        sa.Column("made_by", sa.String(10), nullable=False, comment="the operation that has written it"),
        sa.Column("participant", sa.String(200), nullable=False),
        sa.Column("result", sa.Text, comment="what is answered when it is asked for again"),
        sa.Column("until", INSTANT, comment="when it may be forgotten; NULL: what is reserved is not decided"),
        comment="what coordinators elsewhere have asked for, so that nothing is done twice, or too late",
    )
    op.create_index("ix_txp_tcc_barrier_until", "txp_tcc_barrier", ["until"])


def what_operators_did() -> None:
    op.create_table(
        "txp_tcc_audit",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("done_at", INSTANT, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="why, in the operator's words"),
        sa.Column("tcc", sa.BigInteger, nullable=False, comment="its number"),
        sa.Column("app", sa.String(200), nullable=False),
        sa.Column("tcc_id", sa.String(200), nullable=False),
        sa.Column("branch", sa.Text, comment="the branch that it was about"),
        sa.Column("status", sa.String(20), nullable=False, comment="where the transaction stood before"),
        sa.Column("attention", sa.Text, comment="what was told of it before"),
        sqlite_autoincrement=True,
        comment="what operators did to TCC transactions; it holds no values",
    )
    op.create_index("ix_txp_tcc_audit_tcc", "txp_tcc_audit", ["tcc"])
