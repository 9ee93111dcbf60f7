"""Reading and writing the locks that sagas hold, and wait for.

Whoever changes anything about a lock locks its name first, before any saga's row; names in their order. That a lock has
one holder the database itself sees to, by an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.sagas.arrivals import can_be_woken
from txpatterns.sagas.schema import saga_lock_table, saga_table

_saga, _lock = saga_table.c, saga_lock_table.c
_NAMES = 7432
_CHUNK = 500


class LockStore:
    """The statements about locks."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def ask(self, connection: Connection, saga: int, path: str, name: str) -> None:
        """Let a saga have a lock, or wait for it behind those that wait already."""
        self._lock_names(connection, [name])
        # Written, and not only read: a holder that ends in a transaction with an old snapshot finds that out.
        held = (_lock.name == name, _lock.held_at.is_not(None))
        touch = sa.update(saga_lock_table).where(*held).values(name=_lock.name).returning(_lock.saga)
        holder = self._run(connection, touch).scalar()
        if holder == saga:
            return
        now = self.database.now()
        values = {"name": name, "saga": saga, "path": path, "since": now, "held_at": now if holder is None else None}
        self._run(connection, sa.insert(saga_lock_table).inline().values(**values))

    def is_held(self, connection: Connection, saga: int, name: str) -> bool:
        """Whether a saga has a lock."""
        mine = (_lock.saga == saga, _lock.name == name, _lock.held_at.is_not(None))
        return self._run(connection, sa.select(_lock.id).where(*mine)).first() is not None

    def let_go(self, connection: Connection, saga: int, paths: Sequence[str] | None) -> list[int]:
        """Let a saga neither hold nor wait for these locks, or for any; gives the sagas that have them now instead."""
        mine = [_lock.saga == saga] if paths is None else [_lock.saga == saga, _lock.path.in_(list(paths))]
        names = self._run(connection, sa.select(_lock.name).where(*mine).distinct()).scalars().all()
        if not names:
            return []
        self._lock_names(connection, names)
        freed = sa.delete(saga_lock_table).where(*mine).returning(_lock.name, _lock.held_at)
        free = sorted(row.name for row in self._run(connection, freed).all() if row.held_at is not None)
        return self._pass_on(connection, free)

    def sweep(self, connection: Connection) -> int:
        """Take the locks from some sagas that have ended without letting go of them; says how many sagas those were.

        Code that was changed may not know of a lock any more that it has asked for.
        """
        ended = sa.select(_lock.saga).join(saga_table, _saga.number == _lock.saga).where(_saga.ended_at.is_not(None))
        sagas = self._run(connection, ended.distinct().order_by(_lock.saga).limit(_CHUNK)).scalars().all()
        for saga in sagas:
            woken = self.let_go(connection, saga, None)
            due = sa.update(saga_table).where(_saga.number.in_(woken), can_be_woken())
            self._run(connection, due.values(due_at=self.database.now()))
        return len(sagas)

    def _pass_on(self, connection: Connection, names: Sequence[str]) -> list[int]:
        """Give each of these locks, which nobody has, to the saga that has waited for it for the longest time."""
        if not names:
            return []
        first = sa.select(sa.func.min(_lock.id)).where(_lock.name.in_(names)).group_by(_lock.name)
        give = sa.update(saga_lock_table).where(_lock.id.in_(first)).values(held_at=self.database.now())
        return list(self._run(connection, give.returning(_lock.saga)).scalars())

    def _lock_names(self, connection: Connection, names: Sequence[str]) -> None:
        if not is_sqlite(connection):
            for name in sorted(names):
                given = {"name": name, "lock": _NAMES}
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, :lock))"), given)

    def _run(self, connection: Connection, statement: sa.Executable) -> sa.CursorResult[Any]:
        return self.database.execute_beside(connection, statement)
