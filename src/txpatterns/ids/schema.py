"""The tables of ids: the worker numbers with their marks, and codes that are used again."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.schema import Instant, metadata

worker_table = sa.Table(
    "txp_id_worker",
    metadata,
    sa.Column("worker", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(36), nullable=False),
    sa.Column("token", sa.String(36), nullable=False, comment="another one after each renewal"),
    sa.Column("mark", sa.BigInteger, nullable=False, comment="the last millisecond that its ids may have"),
    sa.Column("expires_at", Instant, nullable=False, comment="when others may take it"),
    sa.Column("label", sa.String(200), nullable=False),
    comment="who makes ids under which worker number, and up to where; one row for each number that was ever used",
)

code_table = sa.Table(
    "txp_id_code",
    metadata,
    sa.Column("pool", sa.String(100), primary_key=True),
    sa.Column("code", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("holder", sa.String(200), comment="NULL: nobody has it"),
    sa.Column("free_at", Instant, comment="when it may be given again; NULL: somebody has it"),
    sa.Index("ix_txp_id_code_free", "pool", "free_at"),
    comment="codes that are given, taken back and, after a while, given again",
)

WORKER_TABLES = (worker_table.name,)
CODE_TABLES = (code_table.name,)
