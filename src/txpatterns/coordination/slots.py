"""The slots of a scope: rows with an owner, and with an epoch that each takeover raises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination.schema import lease_table
from txpatterns.database.dialects import insert_into, is_sqlite

Held = Mapping[int, int]
"""The slots that a member owns, each with its epoch."""

_lease = lease_table.c


@dataclass(frozen=True, slots=True)
class Slots:
    """The statements about so many slots of a scope, numbered from 0."""

    scope: str
    count: int

    def share(self, live: int) -> int:
        """Say how many of them are due to each of so many members, at most."""
        return -(-self.count // max(live, 1))

    def make(self, connection: Connection) -> None:
        """Make the rows that are missing, owned by nobody."""
        many = sa.select(sa.func.count()).where(self._here())
        if not self.count or connection.execute(many).scalar_one() >= self.count:
            return
        known = set(connection.execute(sa.select(_lease.slot).where(self._here())).scalars())
        rows = [{"scope": self.scope, "slot": s, "epoch": 0} for s in range(self.count) if s not in known]
        if rows:  # another member may have made the last of them between the two looks
            insert = insert_into(lease_table, on_sqlite=is_sqlite(connection))
            connection.execute(insert.on_conflict_do_nothing(), rows)

    def owned_by(self, connection: Connection, owner: str) -> dict[int, int]:
        """Give the slots of an owner."""
        found = connection.execute(sa.select(_lease.slot, _lease.epoch).where(self._here(), _lease.owner == owner))
        return {row.slot: row.epoch for row in found}

    def lock(self, connection: Connection, owner: str, slots: Held) -> set[int]:
        """Keep these slots from changing hands until the transaction ends; gives those that the owner still has."""
        mine = (self._here(), _lease.owner == owner, _lease.slot.in_(sorted(slots)))
        query = sa.select(_lease.slot, _lease.epoch).where(*mine)
        if not is_sqlite(connection):
            query = query.order_by(_lease.slot).with_for_update(read=True)
        return {slot for slot, epoch in connection.execute(query) if slots.get(slot) == epoch}

    def take(self, connection: Connection, owner: str, most: int) -> None:
        """Give an owner slots that nobody has, so many at most."""
        free = sa.select(_lease.slot).where(self._here(), _lease.owner.is_(None))
        if not is_sqlite(connection):
            free = free.with_for_update(skip_locked=True)
        found = list(connection.execute(free.order_by(_lease.slot).limit(most)).scalars())
        if found:
            taken = sa.update(lease_table).where(self._here(), _lease.slot.in_(found))
            connection.execute(taken.values(owner=owner, epoch=_lease.epoch + 1))

    def free(self, connection: Connection, owners: Collection[str], slots: Collection[int] | None = None) -> None:
        """Let others take what these owners have, or these slots of it."""
        statement = sa.update(lease_table).where(self._here(), _lease.owner.in_(owners)).values(owner=None)
        if slots is not None:
            statement = statement.where(_lease.slot.in_(slots))
        connection.execute(statement)

    def _here(self) -> sa.ColumnElement[bool]:
        return _lease.scope == self.scope
