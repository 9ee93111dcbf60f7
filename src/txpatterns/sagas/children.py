"""Other sagas that a saga starts and waits for."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.errors import SagaDiverged
from txpatterns.sagas.child_store import ChildStore, EndOfChild
from txpatterns.sagas.claims import Start, path_in
from txpatterns.sagas.course import Course
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import Child, Operation
from txpatterns.sagas.schema import Brought
from txpatterns.sagas.signal_store import WaitRow
from txpatterns.sagas.store import Write


class Children:
    """The children of one course."""

    def __init__(self, course: Course, database: Database) -> None:
        self._course = course
        self._store = ChildStore(database)

    def begins(self, opened: Open, write: Write) -> Write:
        """Add to a write what begins the waiting: the child's start."""
        course, work = self._course, opened.operation.work
        headers = {**course.saga.headers, **course.instance.lineage()}
        start = Start(
            work.type,
            work.id,
            work.version,
            work.args,
            work.digest,
            headers,
            deadline=work.deadline,
            parent=course.saga.number,
            parent_path=path_in(course.saga.run, opened.path),
        )
        return replace(write, waits=[row_of(opened.operation)], starts=[start])

    def find(self, connection: Connection, opened: Open) -> EndOfChild | None:
        """Give what the child has come to, if it has ended."""
        work: Child = opened.operation.work
        return self._store.end(connection, self._course.saga.number, work.type, work.id)

    def gives(self, opened: Open, found: EndOfChild) -> Write:
        """Give the code what the child has come to, and run it on; gives what is to be written."""
        course, work = self._course, opened.operation.work
        course.pending.unwaits.append(opened.path)
        if found.failure is not None:
            # What the child does not know of itself it has undone.
            return course.failed(opened.path, replace(found.failure, unknown=False))
        text = found.result or "null"
        try:
            value = work.form.read(text)
        except ValueError as error:
            raise SagaDiverged(f"What {opened.operation.mark} gave is no value of what it gives now.") from error
        return course.ended(opened.path, text, value)

    def gives_up(self, opened: Open) -> Write:
        """Children are waited for as long as they take."""
        raise AssertionError(f"{opened.operation.mark} has no time")


def row_of(child: Operation[Child]) -> WaitRow:
    """Give the row that says that a child's end is waited for."""
    return WaitRow(child.mark.path, child.work.type, child.work.id, 0, Brought.CHILD)
