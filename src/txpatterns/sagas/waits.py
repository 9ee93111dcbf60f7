"""Waiting for what others bring: what is waited for becomes a row, and what has come is given to the code."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from txpatterns.database.dialects import may_pass
from txpatterns.errors import IdReused
from txpatterns.sagas.children import Children
from txpatterns.sagas.events import Events
from txpatterns.sagas.facts import Waiting
from txpatterns.sagas.locks import Locks
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import Child, Lock
from txpatterns.sagas.store import Write
from txpatterns.sagas.tools import outside_of_tasks
from txpatterns.sagas.writer import Ahead, SagaWriter


class Source(Protocol):
    """Where something of one kind comes from."""

    def begins(self, opened: Open, write: Write) -> Write:
        """Add to a write what begins the waiting."""

    def find(self, connection: Connection, opened: Open) -> Any:
        """Give what has come; None: nothing has."""

    def gives(self, opened: Open, found: Any) -> Write:
        """Give the code what has come, and run it on; gives what is to be written."""

    def gives_up(self, opened: Open) -> Write:
        """Tell the code that nothing has come in time, and run it on; gives what is to be written."""


class Waits:
    """What one course waits for."""

    def __init__(self, writer: SagaWriter) -> None:
        self._writer = writer
        self._events = Events(writer.course, writer.tools.database)
        self._children = Children(writer.course, writer.tools.database)
        self._locks = Locks(writer.course, writer.tools.database)

    @property
    def are_some(self) -> bool:
        """Whether there is something that may come while something else of the saga runs."""
        return bool(self._registered())

    async def run(self, opened: Open) -> None:
        """Begin to wait; or, when its time has come, give the code what has come, or tell it that nothing has."""
        if not opened.is_registered:
            async with self._writer.alone():
                if self._is_awaited(opened):
                    await self._begin(opened)
        await self.look()
        tools = self._writer.tools
        async with self._writer.alone():
            opened.due = max(opened.due, tools.timeouts_from)
            if self._is_awaited(opened) and opened.due <= tools.clock.monotonic():
                told = partial(self._source_of(opened).gives_up, opened)
                await self._writer.write(await outside_of_tasks(told))
        opened.is_running = False

    async def look(self) -> None:
        """Give the code all that has come for it."""
        while not self._writer.is_over and (found := await self._found()) is not None:
            opened, what = found
            async with self._writer.alone():
                if self._is_awaited(opened):
                    told = partial(self._source_of(opened).gives, opened, what)
                    await self._writer.write(await outside_of_tasks(told))

    async def _found(self) -> tuple[Open, Any] | None:
        tools = self._writer.tools
        for opened in () if self._writer.course.is_stopped else self._registered():
            find = partial(self._source_of(opened).find, opened=opened)
            read = partial(tools.database.read, find)
            found = await tools.outages.insist(read, while_=may_pass)
            if found is not None:
                return opened, found
        return None

    async def _begin(self, opened: Open) -> None:
        """Let the saga wait. Raises Ahead where it cannot."""
        course, limit = self._writer.course, opened.operation.work.limit
        seconds = None if limit is None else limit.total_seconds()
        opened.is_registered, opened.is_running = True, False
        opened.due = inf if seconds is None else self._writer.tools.clock.monotonic() + seconds
        write = course.write([Waiting(opened.operation.mark, seconds)], course.resting())
        try:
            await self._writer.write(self._source_of(opened).begins(opened, write))
        except IdReused as error:
            raise Ahead(opened.path, error) from error

    def _is_awaited(self, opened: Open) -> bool:
        """Whether the code still waits for it: another part may have come first."""
        return not self._writer.is_over and self._writer.course.open.get(opened.path) is opened

    def _registered(self) -> list[Open]:
        return [each for each in self._writer.course.open.values() if each.is_registered]

    def _source_of(self, opened: Open) -> Source:
        match opened.operation.work:
            case Child():
                return self._children
            case Lock():
                return self._locks
            case _:
                return self._events
