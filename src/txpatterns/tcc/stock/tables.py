"""The tables of a stock in a database: yours, in your own metadata and your own chain of migrations."""

from __future__ import annotations

import sqlalchemy as sa


class StockTables:
    """Makes the tables of one stock in ``metadata``: ``{name}_item``, ``{name}_reservation`` and ``{name}_gate``.

    They are no tables of the library: a stock belongs to the service that owns the goods, may exist several times, and
    is read by that service's own queries. So your migrations make them, as they make your other tables.
    """

    def __init__(self, metadata: sa.MetaData, name: str = "stock", *, schema: str | None = None) -> None:
        self.item = sa.Table(
            f"{name}_item",
            metadata,
            sa.Column("item", sa.String(200), primary_key=True),
            sa.Column("available", sa.BigInteger, nullable=False),
            sa.Column("reserved", sa.BigInteger, nullable=False, server_default="0"),
            sa.Column("sold", sa.BigInteger, nullable=False, server_default="0"),
            sa.Column(
                "version", sa.BigInteger, nullable=False, server_default="1", comment="raised when it is counted"
            ),
            sa.CheckConstraint("available >= 0 AND reserved >= 0 AND sold >= 0", name=f"ck_{name}_item"),
            schema=schema,
            comment="how many there are of each item",
        )
        self.reservation = sa.Table(
            f"{name}_reservation",
            metadata,
            sa.Column("id", sa.String(200), primary_key=True),
            sa.Column("state", sa.String(10), nullable=False),
            sa.Column("lines", sa.Text, nullable=False, comment="items and quantities; none: canceled before it came"),
            sa.Column("short", sa.Text, comment="of a refused one: what there was too little of"),
            sa.Column("expires_at", sa.DateTime(timezone=True), comment="when to ask whether it is still wanted"),
            sa.Column("prolonged", sa.Boolean, nullable=False, server_default=sa.false()),
            sa.Column("forget_at", sa.DateTime(timezone=True), comment="until when an ended one is remembered"),
            sa.Column("generation", sa.BigInteger, comment="of the Redis that has it"),
            sa.Column("number", sa.BigInteger, comment="that Redis gave it in this generation"),
            sa.Index(
                f"ix_{name}_reservation_held",
                "expires_at",
                postgresql_where=sa.text("state = 'held'"),
                sqlite_where=sa.text("state = 'held'"),
            ),
            sa.Index(
                f"ix_{name}_reservation_forget",
                "forget_at",
                postgresql_where=sa.text("forget_at IS NOT NULL"),
                sqlite_where=sa.text("forget_at IS NOT NULL"),
            ),
            sa.Index(f"ix_{name}_reservation_number", "generation", "number"),
            schema=schema,
            comment="what is set aside, and what became of it",
        )
        self.gate = sa.Table(
            f"{name}_gate",
            metadata,
            sa.Column("name", sa.String(100), primary_key=True),
            sa.Column("generation", sa.BigInteger, nullable=False),
            schema=schema,
            comment="which generation of Redis may reserve; empty without Redis",
        )
