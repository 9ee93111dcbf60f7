"""The table of what operators did to dead letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "txp_audit",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("done_at", INSTANT, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, comment="why, in the operator's words"),
        sa.Column("dead_letter", sa.BigInteger, nullable=False, comment="the id that it had"),
        sa.Column("consumer", sa.String(200), comment="who could not handle it; NULL: it could not be published"),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("topic", sa.String(200), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("died_of", sa.String(50), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_autoincrement=True,
        comment="what operators did to dead letters; it holds no payload and no key",
    )
