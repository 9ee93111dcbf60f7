"""Waiting for events: what is waited for becomes a row, and what has arrived is given to the code."""

from __future__ import annotations

from functools import partial

from txpatterns.database.dialects import may_pass
from txpatterns.sagas.opened import Open
from txpatterns.sagas.signal_store import Arrived, SignalStore
from txpatterns.sagas.tools import outside_of_tasks
from txpatterns.sagas.writer import SagaWriter


class Waits:
    """What one course waits for."""

    def __init__(self, writer: SagaWriter) -> None:
        self._writer = writer
        self._store = SignalStore(writer.tools.database)

    async def run(self, opened: Open) -> None:
        """Begin to wait; or, when its time has come, give the code what has arrived, or tell it that nothing has."""
        course = self._writer.course
        if not opened.is_registered:
            async with self._writer.lock:
                await self._writer.write(course.register(opened.path))
            await self.look()
            opened.is_running = False
            return
        await self.look()
        tools = self._writer.tools
        async with self._writer.lock:
            opened.due = max(opened.due, tools.timeouts_from)
            if course.open.get(opened.path) is opened and opened.due <= tools.clock.monotonic():
                await self._writer.write(await outside_of_tasks(partial(course.timed_out, opened.path)))
        opened.is_running = False

    async def look(self) -> None:
        """Give the code all that has arrived for it."""
        while not self._writer.is_over and (found := await self._found()) is not None:
            path, arrived = found
            course = self._writer.course
            async with self._writer.lock:
                if path in course.open and not self._writer.is_over:
                    told = partial(course.signalled, path, arrived)
                    await self._writer.write(await outside_of_tasks(told))

    async def _found(self) -> tuple[str, Arrived] | None:
        tools, course = self._writer.tools, self._writer.course
        for row in course.wait_rows():
            read = partial(tools.database.read, partial(self._store.find, row=row))
            arrived = await tools.outages.insist(read, while_=may_pass)
            if arrived is not None:
                return row.path, arrived
        return None
