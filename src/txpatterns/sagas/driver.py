"""Driving one saga that this process owns: what its code asks for is begun, and what comes of that is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from txpatterns.causes import one_of
from txpatterns.database.dialects import may_pass
from txpatterns.errors import SagaDiverged
from txpatterns.sagas import attempts, overdue
from txpatterns.sagas.calling import Calls
from txpatterns.sagas.child_undoing import ChildUndoing
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.course import Course
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Restarted
from txpatterns.sagas.failures import Failures
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import CallOut, Child, Outside, Sleep
from txpatterns.sagas.runs import Restart
from txpatterns.sagas.steps import Steps
from txpatterns.sagas.store import Entry, Write
from txpatterns.sagas.tools import Tools, outside_of_tasks
from txpatterns.sagas.waits import Waits
from txpatterns.sagas.writer import Ahead, SagaWriter

logger = logging.getLogger("txpatterns")

_AFTER_AN_ACCIDENT = timedelta(minutes=1)


class Driver:
    """Runs one saga until it ends, or waits for a time, or somebody else has it, or the engine stops."""

    def __init__(self, tools: Tools, definition: Definition, saga: Claimed) -> None:
        self._tools = tools
        self._definition = definition
        self.saga = saga
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_nudged = False
        self._is_begun = False
        self._claimed_at = tools.clock.monotonic()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Make a course of which nothing is known yet, and who works for it."""
        self._course = Course(self._definition, self.saga, self._tools.clock)
        self._writer = SagaWriter(self._tools, self._course)
        self._failures = Failures(self._writer)
        self._steps = Steps(self._writer, self._failures)
        self._calls = Calls(self._writer, self._failures)
        self._waits = Waits(self._writer)
        self._children = ChildUndoing(self._writer, self._steps)

    async def drive(self) -> None:
        """Run the saga.

        Raises:
            LeaseLost: somebody else has claimed it.
            Stopped: the engine stops while the database is away.
        """
        failed = Ahead()
        while True:
            self._begin_anew()
            try:
                await self._rebuild()
                if failed.error is not None:
                    await self._follow(failed.path, failed.error)
                failed = Ahead()
                await self._waits.look()
                await self._go_on()
            except Ahead as ahead:
                if self._writer.is_over and self._writer.restart is None:
                    return
                failed = ahead
            except SagaDiverged as error:
                await self._writer.write(self._course.stuck(error.message))
                return
            else:
                if self._writer.restart is None:
                    return
                self.saga = self._in_next_run(self._writer.restart)
            finally:
                self.saga = replace(self.saga, attention=self._writer.attention)
                await self._put_away()

    @property
    def waits_for_events(self) -> bool:
        """Whether the saga waits for something that may come while something else of it runs."""
        return self._waits.are_some

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for the saga, by anybody."""
        return self._writer.has_ended

    def nudge(self) -> None:
        """Something has arrived that the saga waits for."""
        self._is_nudged = True
        self._changed.set()

    async def put_off(self, error: Exception) -> None:
        """Tell a person that the run has ended by what nobody thought of. It is begun anew after a while."""
        await self._writer.ask(f"its run ended unexpectedly: {one_of(error)}", again=_AFTER_AN_ACCIDENT)

    async def _rebuild(self) -> None:
        course = self._course
        entries = await self._journal()
        for fact in (fact for entry in entries for fact in entry.facts if isinstance(fact, Restarted)):
            # Nobody knew whether that was committed.
            restart = Restart(self.saga.run + 1, fact.args, self._definition.options.deadline, {})
            self.saga = self._in_next_run(restart)
            raise Ahead
        now = self._now()
        # The events that came while nobody ran are read first.
        course.deadline.held_until = self._tools.timeouts_from if self._definition.options.signals else 0.0
        closing = None if course.deadline.is_held else overdue.closing(self.saga, entries, now)
        if closing is not None:
            course.rows = len(entries)
            await self._writer.write(closing)
            entries = await self._journal()
        write = await outside_of_tasks(partial(course.rebuild, entries, now))
        if write is not None:
            await self._writer.write(write)

    def _in_next_run(self, restart: Restart) -> Claimed:
        """Give the saga as it is when it has begun anew."""
        deadline = None if restart.deadline is None else self._now() + restart.deadline
        saga = replace(self.saga, run=restart.run, args=restart.args, deadline_at=deadline)
        return replace(saga, attention=None, crashes=0)

    def _now(self) -> datetime:
        """Give the database's time, by how much has passed since the claim."""
        return self.saga.claimed_at + timedelta(seconds=self._tools.clock.monotonic() - self._claimed_at)

    async def _journal(self) -> list[Entry]:
        """Read the saga's journal; before its first claim nobody has written anything."""
        is_new, self._is_begun = self.saga.epoch == 1 and not self._is_begun, True
        if is_new:
            return []
        tools = self._tools
        read = partial(tools.store.journal, saga=self.saga)
        return await tools.outages.insist(lambda: tools.database.read(read), while_=may_pass)

    async def _follow(self, path: str, error: BaseException) -> None:
        """Do what follows a step, or the undoing of one, of which the commit has failed."""
        course, deed = self._course, self._course.undoing.next()
        opened = course.open.get(path)
        if opened is not None and isinstance(opened.operation.work, Outside):
            await self._failures.of_waiting(opened, error)
        elif opened is not None:
            await self._failures.of_step(opened, error)
        elif course.failure is not None and deed is not None and deed.path == path:
            await self._failures.of_undoing(deed, error)

    async def _go_on(self) -> None:
        course, stopping = self._course, self._tools.outages.stopping
        while not self._writer.is_over and not stopping.is_set():
            if course.failure is not None:
                await self._until_idle()  # nothing is undone before it is written that the code has failed
                if not self._writer.is_over:
                    await self._undo_next()
                continue
            if course.deadline.is_past:
                await self._meet_deadline()
                continue
            if self._is_nudged:
                self._is_nudged = False
                await self._waits.look()
                continue
            if course.rows >= self._tools.longest_journal:
                await self._until_idle()
                await self._writer.ask_of_length()
                continue
            self._begin()
            if not self._tasks:
                standing = course.resting()
                if standing is None:
                    assert course.open, f"{self.saga.id} waits for nothing"
                    continue
                await self._writer.write(course.write((), standing))
                return
            await self._until_changed()
        await self._until_idle()
        left = None if self._writer.is_over else attempts.left(self._course)
        if left is not None:
            await self._writer.write(left)

    async def _meet_deadline(self) -> None:
        """Begin nothing more, and let the saga be undone when nothing runs any more; behind its pivot it goes on."""
        course = self._course
        if course.is_past_pivot:
            async with self._writer.alone():
                await self._writer.write(overdue.told(course))
            return
        await self._until_idle()
        if self._writer.is_over:
            return
        left = attempts.left(course)
        if left is not None:
            await self._writer.write(left)
        raise Ahead  # its journal is read again, and closed

    def _begin(self) -> None:
        """Begin what is due of what the code waits for."""
        now = self._tools.clock.monotonic()
        for opened in list(self._course.open.values()):
            if opened.is_running or not opened.is_ready or opened.due > now:
                continue
            opened.is_running = True
            task = asyncio.create_task(
                self._work_of(opened), name=f"{self.saga.type} {self.saga.id} {opened.operation.mark}"
            )
            self._tasks.add(task)
            task.add_done_callback(lambda _: self._changed.set())

    def _work_of(self, opened: Open) -> Coroutine[Any, Any, None]:
        match opened.operation.work:
            case Sleep():
                return self._wake(opened)
            case CallOut():
                return self._calls.run(opened)
            case Outside():
                return self._waits.run(opened)
            case _:
                return self._steps.run(opened)

    async def _until_idle(self) -> None:
        """Begin nothing, and wait until nothing runs any more."""
        while self._tasks:
            await self._until_changed(begins=False)

    async def _until_changed(self, *, begins: bool = True) -> None:
        """Wait until something has ended, or something else is due. Raises what an operation's task raised."""
        clock, course = self._tools.clock, self._course
        waiting = [each.due for each in course.open.values() if not each.is_running]
        dues = [course.deadline.at, *waiting] if begins else []
        wait = timedelta(seconds=max(min([*dues, clock.monotonic() + 60]) - clock.monotonic(), 0))
        await clock.wait(self._changed, wait)
        self._changed.clear()
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    async def _wake(self, opened: Open) -> None:
        async with self._writer.alone():
            await self._writer.write(await outside_of_tasks(partial(self._course.ended, opened.path, "null", None)))

    async def _undo_next(self) -> None:
        deed = self._course.undoing.next()
        if deed is None:  # the code has been changed, and undoes less than it did
            await self._writer.write(self._course.concluded(Write((), self._course.compensated())))
            return
        match deed.operation.work:
            case CallOut():
                await self._calls.undo(deed)
            case Child():
                await self._children.undo(deed)
            case _:
                await self._steps.undo(deed)

    async def _put_away(self) -> None:
        """Let go of all that was begun for a course, and of its code."""
        self._writer.throw_away(Ahead())
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for trouble in await outside_of_tasks(self._course.close):
            logger.warning("the code of %s %s: %s", self.saga.type, self.saga.id, trouble)
