"""The tables of sagas: where each of them stands, its journal, and what operators did to it."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from txpatterns.database.schema import BigIdentity, Instant, deed_columns, metadata

SCOPE = "sagas"
"""The scope of the memberships: who is no member of it any more owns no saga."""
SAGAS = "sagas"
"""The name of the part that runs sagas, and the word that wakes it."""


class Status(StrEnum):
    """Where a saga stands."""

    RUNNING = "running"
    """Something of it is to be done: by its owner, or by whoever claims it when it is due."""
    WAITING = "waiting"
    """It waits for a time."""
    COMPENSATING = "compensating"
    """It has failed, and what it did is being undone."""
    COMPLETED = "completed"
    """Its code has come to its end."""
    COMPENSATED = "compensated"
    """It has failed, and all is undone that can be."""


class Brought(StrEnum):
    """What a saga waits for that others bring."""

    EVENT = "event"
    CHILD = "child"
    """The end of a saga that it has started."""
    LOCK = "lock"
    """Something that one saga has at a time."""


saga_table = sa.Table(
    "txp_saga",
    metadata,
    sa.Column("number", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("id", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("run", sa.Integer, nullable=False, server_default="1"),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("owner", sa.String(36), comment="the member that runs it now"),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0", comment="raised by each claim"),
    sa.Column("due_at", Instant, comment="when it is to be claimed if nobody who lives owns it; NULL: never"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0", comment="owners that died without progress"),
    sa.Column("attention", sa.Text, comment="why a person should look at it"),
    sa.Column("diverged", sa.Text, comment="the fingerprints of the code that could not go on from here"),
    sa.Column("args", sa.Text, nullable=False),
    sa.Column("digest", sa.String(32), nullable=False, comment="of the arguments"),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("deadline_at", Instant, comment="when it is undone, if it is before its pivot then; NULL: never"),
    sa.Column("ended_at", Instant),
    sa.Column("parent", sa.BigInteger, comment="the number of the saga that has started it, and waits for it"),
    sa.Column("parent_path", sa.String(200), comment="of the operation that waits there"),
    sa.UniqueConstraint("type", "id", name="uq_txp_saga_type"),
    *(
        sa.Index(name, column, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
        for name, column, condition in (
            ("ix_txp_saga_due", "due_at", "due_at IS NOT NULL"),
            ("ix_txp_saga_owner", "owner", "owner IS NOT NULL"),
            ("ix_txp_saga_attention", "number", "attention IS NOT NULL"),
            ("ix_txp_saga_ended", "ended_at", "ended_at IS NOT NULL"),
            ("ix_txp_saga_parent", "parent", "parent IS NOT NULL"),
        )
    ),
    postgresql_with={"fillfactor": "70"},
    sqlite_autoincrement=True,
    comment="where each saga stands; ended ones stay for a while",
)

saga_journal_table = sa.Table(
    "txp_saga_journal",
    metadata,
    sa.Column("saga", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
    comment="what has happened in each saga, in order; a row for each write, but one for all failures alike",
)

saga_wait_table = sa.Table(
    "txp_saga_wait",
    metadata,
    sa.Column("saga", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("path", sa.String(200), primary_key=True, comment="of the operation that waits"),
    sa.Column("kind", sa.String(10), nullable=False, comment="what it waits for"),
    sa.Column("channel", sa.String(300), nullable=False),
    sa.Column("key", sa.String(500), nullable=False),
    sa.Column("after", sa.BigInteger, nullable=False, comment="the last signal that the saga has had of these"),
    sa.Index("ix_txp_saga_wait_key", "channel", "key"),
    comment="what each saga waits for",
)

saga_lock_table = sa.Table(
    "txp_saga_lock",
    metadata,
    sa.Column("id", BigIdentity, sa.Identity(), primary_key=True, comment="the order in which sagas get a lock"),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("saga", sa.BigInteger, nullable=False),
    sa.Column("path", sa.String(200), nullable=False, comment="of the operation that has asked for it"),
    sa.Column("since", Instant, nullable=False),
    sa.Column("held_at", Instant, comment="since when the saga has it; NULL: it waits"),
    sa.Index("ix_txp_saga_lock_name", "name", "id"),
    sa.Index("ix_txp_saga_lock_saga", "saga"),
    sa.Index(
        "uq_txp_saga_lock_held",
        "name",
        unique=True,
        postgresql_where=sa.text("held_at IS NOT NULL"),
        sqlite_where=sa.text("held_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
    comment="what each saga has locked until its end, and waits for",
)

saga_signal_table = sa.Table(
    "txp_saga_signal",
    metadata,
    sa.Column("id", BigIdentity, sa.Identity(), primary_key=True),
    sa.Column("channel", sa.String(300), nullable=False),
    sa.Column("key", sa.String(500), nullable=False),
    sa.Column("message_id", sa.String(200), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.UniqueConstraint("channel", "key", "message_id", name="uq_txp_saga_signal_message"),
    sa.Index("ix_txp_saga_signal_received", "received_at"),
    sqlite_autoincrement=True,
    comment="events that sagas wait for, or will; kept for a while, whoever has had them",
)

saga_audit_table = sa.Table(
    "txp_saga_audit",
    metadata,
    *deed_columns(),
    sa.Column("saga", sa.BigInteger, nullable=False, comment="its number"),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("saga_id", sa.String(200), nullable=False),
    sa.Column("path", sa.Text, comment="the operation that it was about"),
    sa.Column("status", sa.String(20), nullable=False, comment="where the saga stood before"),
    sa.Column("attention", sa.Text, comment="what was told of it before"),
    sa.Index("ix_txp_saga_audit_saga", "saga"),
    sqlite_autoincrement=True,
    comment="what operators did to sagas; it holds no values",
)

SAGA_TABLES = frozenset(
    table.name for table in (saga_table, saga_journal_table, saga_wait_table, saga_lock_table, saga_signal_table)
)
"""What an App needs that has sagas."""
