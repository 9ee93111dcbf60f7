"""Waiting for events: what is waited for becomes a row, and what has arrived is given to the code."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import inf

from txpatterns.database.dialects import may_pass
from txpatterns.errors import SagaDiverged, WaitTimedOut
from txpatterns.sagas.decisions import failure_of
from txpatterns.sagas.facts import Ended, Waiting
from txpatterns.sagas.opened import Open
from txpatterns.sagas.signal_store import Arrived, SignalStore, WaitRow
from txpatterns.sagas.signals import WaitFor
from txpatterns.sagas.store import Write
from txpatterns.sagas.strands import Value
from txpatterns.sagas.tools import outside_of_tasks
from txpatterns.sagas.writer import SagaWriter


class Waits:
    """What one course waits for."""

    def __init__(self, writer: SagaWriter) -> None:
        self._writer = writer
        self._store = SignalStore(writer.tools.database)

    def rows(self) -> list[WaitRow]:
        """Give the events that are waited for now."""
        return [self._row_of(each) for each in self._writer.course.open.values() if each.is_registered]

    async def run(self, opened: Open) -> None:
        """Begin to wait; or, when its time has come, give the code what has arrived, or tell it that nothing has."""
        course = self._writer.course
        if not opened.is_registered:
            async with self._writer.lock:
                await self._writer.write(self._register(opened))
            await self.look()
            opened.is_running = False
            return
        await self.look()
        tools = self._writer.tools
        async with self._writer.lock:
            opened.due = max(opened.due, tools.timeouts_from)
            if course.open.get(opened.path) is opened and opened.due <= tools.clock.monotonic():
                await self._writer.write(await outside_of_tasks(partial(self._time_out, opened)))
        opened.is_running = False

    async def look(self) -> None:
        """Give the code all that has arrived for it."""
        while not self._writer.is_over and (found := await self._found()) is not None:
            path, arrived = found
            course = self._writer.course
            async with self._writer.lock:
                if path in course.open and not self._writer.is_over:
                    told = partial(self._give, path, arrived)
                    await self._writer.write(await outside_of_tasks(told))

    async def _found(self) -> tuple[str, Arrived] | None:
        tools = self._writer.tools
        for row in self.rows():
            read = partial(tools.database.read, partial(self._store.find, row=row))
            arrived = await tools.outages.insist(read, while_=may_pass)
            if arrived is not None:
                return row.path, arrived
        return None

    def _register(self, opened: Open) -> Write:
        """Let the saga wait for an event; gives what is to be written."""
        course, work = self._writer.course, opened.operation.work
        seconds = None if work.timeout is None else work.timeout.total_seconds()
        opened.is_registered, opened.is_running = True, False
        opened.due = inf if seconds is None else self._writer.tools.clock.monotonic() + seconds
        write = course.write([Waiting(opened.operation.mark, seconds)], course.resting())
        return replace(write, waits=[self._row_of(opened)])

    def _give(self, path: str, arrived: Arrived) -> Write:
        """Give the code an event that it waits for, and run it on; gives what is to be written."""
        course = self._writer.course
        opened = course.open.pop(path)
        work: WaitFor = opened.operation.work
        try:
            event = work.form.read(arrived.payload)
        except ValueError as error:
            raise SagaDiverged(f"An event for {opened.operation.mark} does not fit its class now.") from error
        course.had[work.signal.channel, work.key] = arrived.id
        course.pending.unwaits.append(path)
        fact = Ended(opened.operation.mark, arrived.payload, signal=arrived.id)
        write = course.plan(course.running.give(path, Value(event)), fact)
        return replace(write, took=(work.signal.channel, work.key, arrived.id))

    def _time_out(self, opened: Open) -> Write:
        """Tell the code that an event has not come in time, and run it on; gives what is to be written."""
        work: WaitFor = opened.operation.work
        self._writer.course.pending.unwaits.append(opened.path)
        late = WaitTimedOut(f"Nothing came for {work.key} within {work.timeout}.")
        return self._writer.course.failed(opened.path, failure_of(late))

    def _row_of(self, opened: Open) -> WaitRow:
        work: WaitFor = opened.operation.work
        after = self._writer.course.had.get((work.signal.channel, work.key), 0)
        return WaitRow(opened.path, work.signal.channel, work.key, after)
