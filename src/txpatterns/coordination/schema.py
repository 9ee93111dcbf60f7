"""The tables of who is there and who owns what: members of a scope, and its slots with their owners and epochs."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.schema import Instant, metadata

member_table = sa.Table(
    "txp_member",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
)

lease_table = sa.Table(
    "txp_lease",
    metadata,
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)
