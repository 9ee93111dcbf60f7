"""When a participant asks what became of what it has reserved for somebody elsewhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "when its coordinator is asked what became of it; NULL: at once, if it is open"
    op.add_column("txp_tcc_barrier", sa.Column("ask_at", sa.DateTime(timezone=True), comment=comment))
    is_open = sa.text("operation = 'try' AND until IS NULL")
    op.create_index(
        "ix_txp_tcc_barrier_open", "txp_tcc_barrier", ["ask_at"], postgresql_where=is_open, sqlite_where=is_open
    )
