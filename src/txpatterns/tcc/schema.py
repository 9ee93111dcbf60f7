"""The tables of TCC: where each transaction stands, its branches, and what a participant was asked for from outside."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from txpatterns.database.schema import BigIdentity, Instant, deed_columns, metadata

SCOPE = "tcc"
"""The scope of the memberships: who is no member of it any more owns no transaction."""
TCC = "tcc"
"""The name of the part that recovers transactions, and the word that wakes it."""


class Status(StrEnum):
    """Where a transaction stands."""

    TRYING = "trying"
    """Its participants are asked; nothing is decided."""
    CONFIRMING = "confirming"
    """It is decided: what was tried is being confirmed."""
    CANCELLING = "cancelling"
    """It is decided: what was tried is being cancelled."""
    CONFIRMED = "confirmed"
    """All is confirmed."""
    CANCELLED = "cancelled"
    """All is cancelled."""


class State(StrEnum):
    """Where a branch stands: one participant's part in a transaction."""

    TRYING = "trying"
    """It was asked outside of our database, and nobody knows whether it has reserved anything."""
    TRIED = "tried"
    """It has reserved."""
    REFUSED = "refused"
    """It has said no, and reserved nothing."""
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


class Operation(StrEnum):
    """What a participant is asked for."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"


tcc_table = sa.Table(
    "txp_tcc",
    metadata,
    sa.Column("number", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("app", sa.String(200), nullable=False),
    sa.Column("id", sa.String(200), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("owner", sa.String(36), comment="who has begun it, or now brings it to its end"),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0", comment="raised by each claim"),
    sa.Column("due_at", Instant, comment="when it is to be claimed if nobody who lives owns it; NULL: it has ended"),
    sa.Column("expires_at", Instant, nullable=False, comment="when it is cancelled, unless it is decided before"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0", comment="owners that died without progress"),
    sa.Column("attention", sa.Text, comment="why a person should look at it"),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.UniqueConstraint("app", "id", name="uq_txp_tcc_app"),
    *(
        sa.Index(name, column, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
        for name, column, condition in (
            ("ix_txp_tcc_due", "due_at", "due_at IS NOT NULL"),
            ("ix_txp_tcc_attention", "number", "attention IS NOT NULL"),
            ("ix_txp_tcc_ended", "ended_at", "ended_at IS NOT NULL"),
        )
    ),
    postgresql_with={"fillfactor": "70"},
    sqlite_autoincrement=True,
    comment="where each TCC transaction stands; ended ones stay for a while",
)

tcc_branch_table = sa.Table(
    "txp_tcc_branch",
    metadata,
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

_OPEN = sa.text("operation = 'try' AND until IS NULL")

tcc_barrier_table = sa.Table(
    "txp_tcc_barrier",
    metadata,
    sa.Column("xid", sa.String(401), primary_key=True),
    sa.Column("branch", sa.String(200), primary_key=True),
    sa.Column("operation", sa.String(10), primary_key=True),
    sa.Column("made_by", sa.String(10), nullable=False, comment="the operation that has written it"),
    sa.Column("participant", sa.String(200), nullable=False),
    sa.Column("result", sa.Text, comment="what is answered when it is asked for again"),
    sa.Column("until", Instant, comment="when it may be forgotten; NULL: what is reserved is not decided"),
    sa.Column(
        "ask_at", Instant, comment="when its coordinator is asked what became of it; NULL: at once, if it is open"
    ),
    sa.Index("ix_txp_tcc_barrier_until", "until"),
    sa.Index("ix_txp_tcc_barrier_open", "ask_at", postgresql_where=_OPEN, sqlite_where=_OPEN),
    comment="what coordinators elsewhere have asked for, so that nothing is done twice, or too late",
)

tcc_audit_table = sa.Table(
    "txp_tcc_audit",
    metadata,
    *deed_columns(),
    sa.Column("tcc", sa.BigInteger, nullable=False, comment="its number"),
    sa.Column("app", sa.String(200), nullable=False),
    sa.Column("tcc_id", sa.String(200), nullable=False),
    sa.Column("branch", sa.Text, comment="the branch that it was about"),
    sa.Column("status", sa.String(20), nullable=False, comment="where the transaction stood before"),
    sa.Column("attention", sa.Text, comment="what was told of it before"),
    sa.Index("ix_txp_tcc_audit_tcc", "tcc"),
    sqlite_autoincrement=True,
    comment="what operators did to TCC transactions; it holds no values",
)

TCC_TABLES = frozenset(table.name for table in (tcc_table, tcc_branch_table, tcc_barrier_table))
"""What an App needs that has participants."""
