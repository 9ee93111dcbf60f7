"""The tables of ids."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "txp_id_worker",
        sa.Column("worker", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("token", sa.String(36), nullable=False, comment="another one after each renewal"),
        sa.Column("mark", sa.BigInteger, nullable=False, comment="the last millisecond that its ids may have"),
        sa.Column("expires_at", INSTANT, nullable=False, comment="when others may take it"),
        sa.Column("label", sa.String(200), nullable=False),
        comment="who makes ids under which worker number, and up to where; one row for each number that was ever used",
    )
    op.create_table(
        "txp_id_code",
        sa.Column("pool", sa.String(100), primary_key=True),
        sa.Column("code", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(200), comment="NULL: nobody has it"),
        sa.Column("free_at", INSTANT, comment="when it may be given again; NULL: somebody has it"),
        comment="codes that are given, taken back and, after a while, given again",
    )
    op.create_index("ix_txp_id_code_free", "txp_id_code", ["pool", "free_at"])
