"""Reading and writing what sagas wait for, and what has arrived for them.

A wait and a signal of one channel and key lock the two before they look for each other, so that one of them sees the
other, whichever comes first. The signals of a key are numbered in the order of their commits for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.sagas.arrivals import can_be_woken, has_come
from txpatterns.sagas.schema import Brought, Status, saga_signal_table, saga_table, saga_wait_table

_saga, _wait, _signal = saga_table.c, saga_wait_table.c, saga_signal_table.c
_LOCK = 7431
_CHUNK = 500


class WaitRow(NamedTuple):
    """One operation that waits for something: for an event, or for the end of the saga of this type and id."""

    path: str
    channel: str
    key: str
    after: int
    kind: str = Brought.EVENT


class Arrival(NamedTuple):
    """An event that has arrived."""

    channel: str
    key: str
    message_id: str
    payload: str


class Arrived(NamedTuple):
    """The same as it is kept."""

    id: int
    payload: str


class SignalStore:
    """The statements about waits and signals."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def wait(self, connection: Connection, saga: int, row: WaitRow) -> bool:
        """Let a saga wait; says whether what it waits for is there already."""
        is_for_event = row.kind == Brought.EVENT
        if is_for_event:
            self._lock(connection, row.channel, row.key)
        values = {"saga": saga, **row._asdict()}
        insert = insert_into(saga_wait_table, on_sqlite=is_sqlite(connection)).values(**values)
        self._run(connection, insert.on_conflict_do_nothing().inline())
        return is_for_event and self._run(connection, _first_of(row)).first() is not None

    def find(self, connection: Connection, row: WaitRow) -> Arrived | None:
        """Give the first event that has arrived for a wait."""
        found = self._run(connection, _first_of(row)).first()
        return None if found is None else Arrived(found.id, found.payload)

    def forget(self, connection: Connection, saga: int, paths: Sequence[str] | None) -> None:
        """Let a saga wait no longer, for these or for anything."""
        delete = sa.delete(saga_wait_table).where(_wait.saga == saga)
        self._run(connection, delete if paths is None else delete.where(_wait.path.in_(list(paths))))

    def took(self, connection: Connection, saga: int, channel: str, key: str, signal: int) -> None:
        """A saga has had a signal: none of its other waits gets it."""
        mine = (_wait.saga == saga, _wait.channel == channel, _wait.key == key)
        self._run(connection, sa.update(saga_wait_table).where(*mine).values(after=signal))

    def arrive(self, connection: Connection, arrival: Arrival) -> bool:
        """Keep an event and wake the sagas that wait for it; says whether it is new."""
        self._lock(connection, arrival.channel, arrival.key)
        values = {**arrival._asdict(), "received_at": self.database.now()}
        insert = insert_into(saga_signal_table, on_sqlite=is_sqlite(connection)).values(**values)
        new = insert.on_conflict_do_nothing().returning(_signal.id)  # drivers do not all count what is inserted
        if self._run(connection, new).first() is None:
            return False
        named = (_wait.channel == arrival.channel, _wait.key == arrival.key)
        waiting = sa.select(_wait.saga).where(*named, _wait.kind == Brought.EVENT)
        locked = sa.select(_saga.number).where(_saga.number.in_(waiting), can_be_woken()).order_by(_saga.number)
        if not is_sqlite(connection):
            locked = locked.with_for_update(key_share=True)
        numbers = list(self._run(connection, locked).scalars())
        if numbers:
            wake = sa.update(saga_table).where(_saga.number.in_(numbers)).values(due_at=self.database.now())
            self._run(connection, wake)
        return True

    def sweep(self, connection: Connection) -> int:
        """Wake the sagas that sleep although what they wait for is there; says how many those were."""
        asleep = (_saga.status == Status.WAITING, sa.or_(_saga.due_at.is_(None), _saga.due_at > self.database.now()))
        found = sa.select(_saga.number).where(*asleep, has_come()).limit(_CHUNK)
        if not is_sqlite(connection):
            found = found.with_for_update(skip_locked=True, key_share=True)
        numbers = list(connection.execute(found).scalars())
        if numbers:
            connection.execute(
                sa.update(saga_table).where(_saga.number.in_(numbers)).values(due_at=self.database.now())
            )
        return len(numbers)

    def nudged(self, connection: Connection, sagas: Sequence[int]) -> list[int]:
        """Say for which of these sagas something has come."""
        query = sa.select(_saga.number).where(_saga.number.in_(list(sagas)), has_come())
        return list(connection.execute(query).scalars())

    def clean(self, connection: Connection, older_than: timedelta) -> int:
        """Forget some signals that arrived longer ago than that and that no saga waits for; says how many."""
        old = sa.select(_signal.id).where(_signal.received_at < self.database.now(-older_than), ~_is_awaited())
        old = old.limit(_CHUNK)
        return connection.execute(sa.delete(saga_signal_table).where(_signal.id.in_(old))).rowcount

    def _lock(self, connection: Connection, channel: str, key: str) -> None:
        if not is_sqlite(connection):
            given: Mapping[str, object] = {"what": f"{channel}\x1f{key}", "lock": _LOCK}
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:what, :lock))"), given)

    def _run(self, connection: Connection, statement: sa.Executable) -> sa.CursorResult[Any]:
        return self.database.execute_beside(connection, statement)


def _first_of(row: WaitRow) -> sa.Select[tuple[int, str]]:
    fitting = (_signal.channel == row.channel, _signal.key == row.key, _signal.id > row.after)
    return sa.select(_signal.id, _signal.payload).where(*fitting).order_by(_signal.id).limit(1)


def _is_awaited() -> sa.ColumnElement[bool]:
    """Say that a saga waits for a signal that it has not had, in a statement about ``txp_saga_signal``."""
    fitting = sa.and_(_signal.channel == _wait.channel, _signal.key == _wait.key, _signal.id > _wait.after)
    return sa.exists().where(fitting, _wait.kind == Brought.EVENT).correlate(saga_signal_table)
