"""Locks that a saga waits for, and then has until its end."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.errors import WaitTimedOut
from txpatterns.sagas.course import Course
from txpatterns.sagas.decisions import failure_of
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.opened import Open
from txpatterns.sagas.schema import Brought
from txpatterns.sagas.signal_store import WaitRow
from txpatterns.sagas.store import Write


class Locks:
    """The locks of one course."""

    def __init__(self, course: Course, database: Database) -> None:
        self._course = course
        self._store = LockStore(database)

    def begins(self, opened: Open, write: Write) -> Write:
        """Add to a write what begins the waiting: a place in the queue. The saga does not rest: it may have it now."""
        name = opened.operation.work.name
        asks = replace(write.beside, asks=[(opened.path, name)])
        row = WaitRow(opened.path, "", name, 0, Brought.LOCK)
        return replace(write, waits=[row], beside=asks, standing=None, rests=False)

    def find(self, connection: Connection, opened: Open) -> bool | None:
        """Say whether the saga has the lock."""
        return self._store.is_held(connection, self._course.saga.number, opened.operation.work.name) or None

    def gives(self, opened: Open, found: bool) -> Write:
        """Tell the code that it has the lock, and run it on; gives what is to be written."""
        self._course.pending.unwaits.append(opened.path)
        return self._course.ended(opened.path, "null", None)

    def gives_up(self, opened: Open) -> Write:
        """Tell the code that it does not get the lock, and run it on; gives what is to be written."""
        work = opened.operation.work
        self._course.pending.unwaits.append(opened.path)
        self._course.pending.leaves.append(opened.path)
        late = WaitTimedOut(f"The lock {work.name} was not free within {work.timeout}.")
        return self._course.failed(opened.path, failure_of(late))
