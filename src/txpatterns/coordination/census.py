"""Who is in a scope: its members that live, and those that stopped without leaving."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database.database import Database
from txpatterns.database.dialects import moment

SHOWN_FOR = timedelta(minutes=10)
"""How long a member is told of that stopped without leaving."""

_NOW, _SHOWN = moment("now"), moment("shown")


@dataclass(frozen=True, slots=True)
class Census:
    """Who is in a scope now."""

    live: int
    stale: int
    """Members that stopped without leaving, seen within the last ten minutes."""
    free: int = 0
    """Slots that nobody owns who lives."""
    owned: int = 0
    """Slots that are ours."""
    forgettable: int = 0
    """Members that stopped longer ago than that, and whose rows are still there."""

    @classmethod
    def of(cls, row: Iterable[int]) -> Census:
        """Read what ``counts`` has given."""
        return cls(*map(int, row))


def alive(scope: str, now: sa.ColumnElement[datetime]) -> sa.Select[tuple[str]]:
    """Select the owners that live."""
    member = member_table.alias()
    return sa.select(member.c.owner).where(member.c.scope == scope, member.c.expires_at > now)


def counts(scope: str) -> list[sa.ScalarSelect[int]]:
    """Give what a census counts, each by a subquery: so a renewal, which asks for it too, is one statement."""
    member, slot = member_table.alias(), lease_table.alias()
    ended, shown = member.c.expires_at <= _NOW, member.c.expires_at > _SHOWN
    of_members = (sa.not_(ended), sa.and_(ended, shown), sa.not_(shown))
    live, stale, forgettable = (
        sa.select(sa.func.count()).select_from(member).where(member.c.scope == scope, kind) for kind in of_members
    )
    unowned = sa.or_(slot.c.owner.is_(None), slot.c.owner.not_in(alive(scope, _NOW)))
    free, owned = (
        sa.select(sa.func.count()).select_from(slot).where(slot.c.scope == scope, kind)
        for kind in (unowned, slot.c.owner == sa.bindparam("me"))
    )
    return [count.scalar_subquery() for count in (live, stale, free, owned, forgettable)]


def asked_by(owner: str, database: Database) -> dict[str, float | str]:
    """Give the parameters of ``counts``: who asks, and the times that it compares with."""
    return {"me": owner, "now": database.seconds(), "shown": database.seconds(-SHOWN_FOR)}
