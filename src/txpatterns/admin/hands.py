"""What all that operators take into their hands has in common: its tables, who runs it, and what is written down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.audit import Deed
from txpatterns.coordination.claims import alive
from txpatterns.coordination.schema import member_table
from txpatterns.database import Database
from txpatterns.database.engines import schema_of
from txpatterns.deadletters.store import scrub
from txpatterns.errors import SchemaError


def need_tables(connection: Connection, names: Iterable[str]) -> None:
    """Make sure that tables are there which a release works without.

    Raises:
        SchemaError: the tables are those of the release before.
    """
    for name in sorted(names):
        if not sa.inspect(connection).has_table(name, schema=schema_of(connection)):
            raise SchemaError(f"The table {name} is missing.")


def living_owner(connection: Connection, database: Database, scope: str, owner: str | None) -> str | None:
    """Give the host and process of an owner that lives; None: there is none."""
    member = member_table.c
    runs = sa.select(member.label).where(member.owner == owner, member.owner.in_(alive(database, scope)))
    return connection.execute(runs.where(member.scope == scope)).scalar_one_or_none()


def written_down(database: Database, deed: Deed, action: str) -> dict[str, Any]:
    """Give what is noted of each deed: when, who, what and why."""
    return {
        "done_at": database.now(),
        "who": scrub(deed.who)[:200],
        "action": action,
        "reason": scrub(deed.reason or ""),
    }
