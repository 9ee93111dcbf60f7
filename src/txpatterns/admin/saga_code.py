"""A saga's code, run to where its journal ends, without doing anything: to see what it waits for, if it fits at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.clock import Clock
from txpatterns.errors import SagaDiverged, SagaKept
from txpatterns.outbox import Outbox
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.course import Course
from txpatterns.sagas.definitions import Definition, Definitions
from txpatterns.sagas.facts import Ended, Fact, Failed, Mark, Noted
from txpatterns.sagas.operations import Operation
from txpatterns.sagas.store import Entry, Write
from txpatterns.sagas.tools import outside_of_tasks


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A saga at the end of its journal."""

    course: Course
    planned: Write | None
    """What an engine would write before anything else."""

    @property
    def is_undone(self) -> bool:
        """Whether it has failed, and what it did is being undone."""
        return self.course.failure is not None

    @property
    def stops(self) -> str | None:
        """Say why its code cannot go on from here; None: it can."""
        standing = None if self.planned is None else self.planned.standing
        return None if standing is None or standing.diverged is None else standing.attention

    @property
    def ahead(self) -> Write:
        """What its code was told and has sent since the journal's end: it is to be written with what follows."""
        write = self.planned or self.course.unwritten
        return Write([fact for fact in write.facts if isinstance(fact, Noted)], None, write.emits)

    async def told(self, fact: Fact) -> Write:
        """Tell its code that an operation has ended or failed; gives what an engine would write then."""
        course = self.course
        match fact:
            case Ended(mark=mark, value=text):
                form = getattr(course.open[mark.path].operation.work, "form", None)
                value = None if form is None else form.read(text)
                write = await outside_of_tasks(partial(course.ended, mark.path, text, value))
            case Failed(mark=mark, failure=failure):
                write = await outside_of_tasks(partial(course.failed, mark.path, failure))
            case _:
                return Write()
        leaves = replace(write.beside, leaves=[mark.path, *write.beside.leaves])
        return replace(write, unwaits=[mark.path, *write.unwaits], beside=leaves)

    def open(self, path: str) -> Operation[Any]:
        """Give the operation that its code waits for at a place.

        Raises:
            SagaKept: it does not.
        """
        if self.stops is not None:
            raise SagaKept(f"Its code stops, whatever it is told: {self.stops}", fix="Mend the code, and deploy it.")
        opened = self.course.open.get(path)
        if opened is None:
            waits = ", ".join(f"{each.operation.mark} at {each.path}" for each in self.course.open.values())
            raise SagaKept(f"It waits for nothing at {path}; it waits for {waits or 'nothing'}.")
        return opened.operation

    def to_undo(self, path: str) -> Mark:
        """Give the mark of what is undone next, which is to stand at a place.

        Raises:
            SagaKept: it does not.
        """
        deed = self.course.undoing.next()
        if deed is None or deed.path != path:
            left = "nothing is left to be undone" if deed is None else f"next is {deed.operation.mark} at {deed.path}"
            raise SagaKept(f"What stands at {path} is not what is undone next: {left}.")
        return deed.operation.mark


@dataclass(frozen=True, slots=True)
class SagaCode:
    """The code of an App's sagas, and the outbox that they send by."""

    definitions: Definitions
    outbox: Outbox

    @asynccontextmanager
    async def rebuilt(
        self, saga: Claimed, entries: Sequence[Entry], now: datetime, clock: Clock
    ) -> AsyncIterator[Rebuilt]:
        """Run a saga's code to where its journal ends; it is put away afterwards.

        Raises:
            SagaKept: this App has no code for it.
            SagaDiverged: its code does not ask for what the journal has.
        """
        definition = self.definitions.find(saga.type, saga.version)
        if definition is None:
            raise SagaKept(
                f"This App has no code for {saga.type} in version {saga.version}.",
                fix="Name the App that it belongs to: --app MODULE:APP",
            )
        async with rebuild(definition, saga, entries, now, clock) as rebuilt:
            yield rebuilt

    async def waits_for(
        self, saga: Claimed, entries: Sequence[Entry], now: datetime, clock: Clock
    ) -> Mapping[str, str] | None:
        """Say in words what a saga's code waits for, by path; None: it is undone, or there is no code that fits it."""
        try:
            async with self.rebuilt(saga, entries, now, clock) as rebuilt:
                opened = rebuilt.course.open.values()
                return None if rebuilt.is_undone else {each.path: str(each.operation.mark) for each in opened}
        except (SagaKept, SagaDiverged):
            return None

    def send(self, rebuilt: Rebuilt, ahead: Write, connection: Connection) -> None:
        """Send, in the connection's transaction, what the code has sent since the journal's end."""
        instance = rebuilt.course.instance
        for path, event in ahead.emits:
            message_id = instance.message_id(f"{rebuilt.course.saga.run}/{path}")
            self.outbox.add(connection, event, headers=instance.lineage(), message_id=message_id)


@asynccontextmanager
async def rebuild(
    definition: Definition, saga: Claimed, entries: Sequence[Entry], now: datetime, clock: Clock
) -> AsyncIterator[Rebuilt]:
    """Run a saga's code to where its journal ends; it is put away afterwards.

    Raises:
        SagaDiverged: its code does not ask for what the journal has.
    """
    course = Course(definition, saga, clock)
    try:
        planned = await outside_of_tasks(partial(course.rebuild, entries, now))
        yield Rebuilt(course, planned)
    finally:
        await outside_of_tasks(course.close)
