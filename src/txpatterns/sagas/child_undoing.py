"""Undoing children: what runs is cancelled and waited for, and what has completed is undone by its compensation."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from txpatterns.database.dialects import may_pass
from txpatterns.sagas import compensation
from txpatterns.sagas.child_store import ChildStore, EndOfChild
from txpatterns.sagas.children import row_of
from txpatterns.sagas.neighbours import Beside
from txpatterns.sagas.operations import Child
from txpatterns.sagas.steps import Steps
from txpatterns.sagas.store import Write
from txpatterns.sagas.undoing import Deed
from txpatterns.sagas.writer import SagaWriter

_LOOKS_AGAIN = timedelta(days=1)
"""The child's end wakes its parent; this is for one that has lost it."""


class ChildUndoing:
    """The children of one course that are to be undone."""

    def __init__(self, writer: SagaWriter, steps: Steps) -> None:
        self._writer = writer
        self._steps = steps
        self._store = ChildStore(writer.tools.database)

    async def undo(self, deed: Deed) -> None:
        """Cancel a child, and wait for its end; or undo what one has done that has completed."""
        course, child = self._writer.course, deed.operation.work
        if deed.is_in_doubt:
            end, is_there = await self._look(child)
            if end is None and is_there:
                await self._writer.write(self._cancel(deed))
                return
            if end is None or end.failure is not None or child.compensate is None:
                await self._writer.write(compensation.undone(course, deed))
                return
        await self._steps.undo(deed)

    async def _look(self, child: Child) -> tuple[EndOfChild | None, bool]:
        tools, parent = self._writer.tools, self._writer.saga.number
        end = partial(self._store.end, parent=parent, type_=child.type, id_=child.id)
        found = await tools.outages.insist(lambda: tools.database.read(end), while_=may_pass)
        if found is not None:
            return found, True
        is_there = partial(self._store.is_there, parent=parent, type_=child.type, id_=child.id)
        return None, await tools.outages.insist(lambda: tools.database.read(is_there), while_=may_pass)

    def _cancel(self, deed: Deed) -> Write:
        """Cancel all children that may run, and rest until this one has ended."""
        course = self._writer.course
        left = [each.operation.work for each in course.undoing.left() if each.is_in_doubt]
        cancels = [(work.type, work.id) for work in left if isinstance(work, Child)]
        return Write(
            (),
            compensation.later(course, _LOOKS_AGAIN),
            waits=[row_of(deed.operation)],
            rests=True,
            waits_no_more=True,
            beside=Beside(cancels=cancels),
        )
