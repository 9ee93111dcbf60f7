"""What a saga's write does to other sagas: it wakes its parent or who has a lock now, and cancels its children.

Names of locks are locked first. All rows that a write locks it locks at once, in the order of their numbers. A child is
younger than its parent, so the parent's row is locked first by both: one of them sees the other, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import say
from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.errors import SagaDiverged
from txpatterns.sagas.arrivals import can_be_woken
from txpatterns.sagas.decisions import aborted, is_past_pivot
from txpatterns.sagas.facts import PARENT, read
from txpatterns.sagas.handover import Place, cancel
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.schema import SAGAS, Status, saga_journal_table, saga_table

_saga, _journal = saga_table.c, saga_journal_table.c


@dataclass(frozen=True, slots=True)
class Beside:
    """What a write does to other sagas than its own."""

    parent: int | None = None
    """The number of the saga that is told of this one's end."""
    cancels: Sequence[tuple[str, str]] = ()
    """The types and ids of children whose ends nobody waits for any more."""
    asks: Sequence[tuple[str, str]] = ()
    """The locks that it waits for from now on: paths and names."""
    leaves: Sequence[str] = ()
    """The paths of locks that it does not wait for any more."""
    frees: bool = False
    """Whether it lets go of all locks that it has."""

    def __bool__(self) -> bool:
        return self.parent is not None or self.frees or bool(self.cancels or self.asks or self.leaves)


NOTHING = Beside()


class Neighbours:
    """The statements about other sagas than the one that writes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._locks = LockStore(database)

    def change(self, connection: Connection, saga: int, beside: Beside) -> None:
        """Do what a write does to others, in its transaction, before anything of its own row is locked."""
        for path, name in beside.asks:
            self._locks.ask(connection, saga, path, name)
        woken = [] if beside.parent is None else [beside.parent]
        if beside.frees or beside.leaves:
            woken += self._locks.let_go(connection, saga, None if beside.frees else beside.leaves)
        children = self._children(connection, saga, beside.cancels) if beside.cancels else []
        if not woken and not children:
            return
        self._lock(connection, {saga, *woken, *children})
        if woken:
            wake = sa.update(saga_table).where(_saga.number.in_(woken), can_be_woken())
            self._run(connection, wake.values(due_at=self.database.now()))
        for number in children:
            self._cancel(connection, number)
        say(connection, SAGAS)

    def _children(self, connection: Connection, saga: int, which: Sequence[tuple[str, str]]) -> list[int]:
        mine = sa.select(_saga.number).where(_saga.parent == saga, _saga.ended_at.is_(None))
        named = sa.or_(*(sa.and_(_saga.type == type_, _saga.id == id_) for type_, id_ in which))
        return list(self._run(connection, mine.where(named)).scalars())

    def _lock(self, connection: Connection, numbers: Iterable[int]) -> None:
        if not is_sqlite(connection):
            query = sa.select(_saga.number).where(_saga.number.in_(sorted(numbers))).order_by(_saga.number)
            self._run(connection, query.with_for_update(key_share=True)).all()

    def _cancel(self, connection: Connection, number: int) -> None:
        """Undo a saga whose row is locked, wherever its code is; one that only goes forward goes on."""
        query = sa.select(_saga.run, _saga.status, _saga.ended_at).where(_saga.number == number)
        row = self._run(connection, query).one()
        if row.ended_at is not None or row.status == Status.COMPENSATING:
            return
        mine = (_journal.saga == number, _journal.run == row.run)
        texts = self._run(connection, sa.select(_journal.facts).where(*mine).order_by(_journal.n)).scalars().all()
        if _may_be_past_pivot(texts):
            return
        cancelled = aborted("its parent does not wait for it any more")
        cancel(connection, self.database, Place(number, row.run, len(texts)), cancelled, PARENT)

    def _run(self, connection: Connection, statement: sa.Executable) -> sa.CursorResult[Any]:
        return self.database.execute_beside(connection, statement)


def _may_be_past_pivot(texts: Sequence[str]) -> bool:
    """Whether a journal has a pivot; one that cannot be read may."""
    try:
        return is_past_pivot(fact for text in texts for fact in read(text))
    except SagaDiverged:
        return True
