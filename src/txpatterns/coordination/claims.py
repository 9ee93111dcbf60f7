"""Rows that members of a scope take in turn: due, owned by nobody who lives, and at a new epoch with each claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.coordination.leases import Leases
from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.database.schema import Instant

_NOTHING = timedelta(0)
_NO_CHANGES: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Claims:
    """The statements about a table with ``number``, ``owner``, ``epoch`` and ``due_at``.

    ``due_at`` stays while a row is owned, so that it can be claimed when its owner has died.
    """

    database: Database
    table: sa.Table

    def claim(
        self,
        connection: Connection,
        leases: tuple[str, sa.Select[tuple[str]]],
        most: int,
        *conditions: sa.ColumnElement[bool],
        changes: Mapping[str, Any] = _NO_CHANGES,
    ) -> Sequence[RowMapping]:
        """Take rows that are due and that nobody who lives owns, the longest due first; gives them as they are then.

        ``leases`` are the one who takes them, and who lives. Each row has the database's clock as ``now``.
        """
        row, (owner, alive) = self.table.c, leases
        due = sa.select(row.number).where(row.due_at <= self.read_once(), *conditions)
        due = due.where(sa.or_(row.owner.is_(None), row.owner.not_in(alive)))
        due = due.where(sa.literal(owner).in_(alive))  # whose membership has run out would find its own rows free
        due = due.order_by(row.due_at).limit(most)
        if not is_sqlite(connection):
            due = due.with_for_update(skip_locked=True, key_share=True)
        claim = (
            sa.update(self.table)
            .where(row.number.in_(due))
            .values(owner=owner, epoch=row.epoch + 1, **changes)
            .returning(*self.table.columns, sa.type_coerce(self.database.now(), Instant).label("now"))
        )
        return connection.execute(claim).mappings().all()

    def give_back(
        self, connection: Connection, owner: str, running: Collection[int], *conditions: sa.ColumnElement[bool]
    ) -> int:
        """Let others claim what a member owns and does not run; says how many rows that were."""
        row = self.table.c
        update = sa.update(self.table).where(row.owner == owner, row.number.not_in(sorted(running)), *conditions)
        return connection.execute(update.values(owner=None)).rowcount

    def has_due(self, connection: Connection, moment: datetime, *conditions: sa.ColumnElement[bool]) -> bool:
        """Whether a row is due, and was at a moment of the database's clock, whoever owns it."""
        # Of the crash explorer's clock the moment may lie ahead, by as long as a statement is on its way.
        row = self.table.c
        due = sa.select(row.number).where(row.due_at <= moment, row.due_at <= self.database.now(), *conditions)
        return connection.execute(due.limit(1)).first() is not None

    def next_due(
        self, connection: Connection, within: timedelta, *conditions: sa.ColumnElement[bool]
    ) -> timedelta | None:
        """Say how long until a row is due that nobody owns; None: not within that time."""
        row, now = self.table.c, sa.type_coerce(self.database.now(), Instant).label("now")
        query = sa.select(row.due_at, now).where(row.due_at <= self.read_once(within), *conditions)
        found = connection.execute(query.order_by(row.due_at).limit(1)).first()
        return None if found is None else found.due_at - found.now

    def read_once(self, plus: timedelta = _NOTHING) -> sa.ScalarSelect[datetime]:
        """Give the database's clock as it is once for a statement: of one that moves PostgreSQL looks at every row."""
        return sa.select(self.database.now(plus)).scalar_subquery()


def alive(database: Database, scope: str) -> sa.Select[tuple[str]]:
    """Give the members of a scope that live, as a subquery, for whoever is none of them."""
    return Leases(database, scope, slots=0, ttl=timedelta(seconds=15)).alive()
