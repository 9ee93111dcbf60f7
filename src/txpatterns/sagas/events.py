"""Events that a saga waits for, with or without a command of its own."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.errors import SagaDiverged, WaitTimedOut
from txpatterns.sagas.course import Course
from txpatterns.sagas.decisions import failure_of
from txpatterns.sagas.facts import Ended
from txpatterns.sagas.opened import Open
from txpatterns.sagas.signal_store import Arrived, SignalStore, WaitRow
from txpatterns.sagas.signals import Command, WaitFor
from txpatterns.sagas.store import Write
from txpatterns.sagas.strands import Value


class Events:
    """The events that one course waits for."""

    def __init__(self, course: Course, database: Database) -> None:
        self._course = course
        self._store = SignalStore(database)

    def begins(self, opened: Open, write: Write) -> Write:
        """Add to a write what begins the waiting: a command goes with it."""
        work = opened.operation.work
        if isinstance(work, Command):
            write = replace(write, emits=[*write.emits, (opened.path, work.event)])
        return replace(write, waits=[self._row_of(opened)])

    def find(self, connection: Connection, opened: Open) -> Arrived | None:
        """Give the first event that has arrived."""
        return self._store.find(connection, self._row_of(opened))

    def gives(self, opened: Open, found: Arrived) -> Write:
        """Give the code an event, and run it on; gives what is to be written."""
        course, work = self._course, opened.operation.work
        course.open.pop(opened.path)
        try:
            event = work.form.read(found.payload)
        except ValueError as error:
            raise SagaDiverged(f"An event for {opened.operation.mark} does not fit its class now.") from error
        course.had[work.signal.channel, work.key] = found.id
        course.pending.unwaits.append(opened.path)
        fact = Ended(opened.operation.mark, found.payload, signal=found.id)
        write = course.plan(course.running.give(opened.path, Value(event)), fact)
        return replace(write, took=(work.signal.channel, work.key, found.id))

    def gives_up(self, opened: Open) -> Write:
        """Tell the code that an event has not come in time, and run it on; gives what is to be written."""
        work: WaitFor = opened.operation.work
        self._course.pending.unwaits.append(opened.path)
        late = WaitTimedOut(f"Nothing came for {work.key} within {work.timeout}.")
        return self._course.failed(opened.path, failure_of(late))

    def _row_of(self, opened: Open) -> WaitRow:
        work: WaitFor = opened.operation.work
        after = self._course.had.get((work.signal.channel, work.key), 0)
        return WaitRow(opened.path, work.signal.channel, work.key, after)
