"""What operators did to the groups of the database as a broker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "txp_queue_audit",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("done_at", INSTANT, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="why, in the operator's words"),
        sa.Column("consumer_group", sa.String(200), nullable=False),
        sa.Column("topic", sa.String(200), comment="the topic that it was about; NULL: all of the group's"),
        sa.Column("topics", sa.Integer, nullable=False, comment="how many it was no reader of any more"),
        sa.Column("messages", sa.BigInteger, nullable=False, comment="how many waited for it"),
        sqlite_autoincrement=True,
        comment="what operators did to groups; it holds no messages",
    )
