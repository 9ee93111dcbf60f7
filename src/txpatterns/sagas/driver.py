"""Driving one saga that this process owns: what its code asks for is begun, and what comes of that is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from txpatterns.causes import one_of
from txpatterns.database.dialects import may_pass
from txpatterns.errors import LeaseLost, Reject, SagaDiverged
from txpatterns.execution import Came, Result
from txpatterns.sagas.attempt import Ahead, Attempt
from txpatterns.sagas.course import Course, Open
from txpatterns.sagas.decisions import Tell, after_attempt
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Mark
from txpatterns.sagas.moments import SagaEnded, SagaNeedsAttention, StepDone, StepRaised
from txpatterns.sagas.operations import Operation, Sleep
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import Claimed, Standing, Write
from txpatterns.sagas.tools import Tools, outside_of_tasks

logger = logging.getLogger("txpatterns")

T = TypeVar("T")


class Driver:
    """Runs one saga until it ends, or waits for a time, or somebody else has it, or the engine stops."""

    def __init__(self, tools: Tools, definition: Definition, saga: Claimed) -> None:
        self.tools = tools
        self._definition = definition
        self.saga = saga
        self.course = Course(definition, saga, tools.clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held from when the code is told something until that is committed."""
        self._is_over = False

    async def drive(self) -> None:
        """Run the saga.

        Raises:
            LeaseLost: somebody else has claimed it.
            Stopped: the engine stops while the database is away.
        """
        failed = Ahead()
        while True:
            self.course = course = Course(self._definition, self.saga, self.tools.clock)
            self.writing = asyncio.Lock()
            try:
                await self._rebuild(course)
                if failed.error is not None and failed.path in course.open:
                    await self._fail(course.open[failed.path], failed.error)
                failed = Ahead()
                await self._go_on()
            except Ahead as ahead:
                failed = ahead
            except SagaDiverged as error:
                await self._write(course.stuck(error.message))
                return
            else:
                return
            finally:
                await self._put_away(course)

    async def _rebuild(self, course: Course) -> None:
        store, tools = self.tools.store, self.tools
        read = partial(store.journals, sagas=[self.saga])
        journals, now = await tools.outages.insist(lambda: tools.database.read(read), while_=may_pass)
        write = await outside_of_tasks(partial(course.rebuild, journals[self.saga.number], now))
        if write is not None:
            await self._write(write)

    async def _go_on(self) -> None:
        course, stopping = self.course, self.tools.outages.stopping
        while not self._is_over and not stopping.is_set():
            if course.failure is not None:
                await self._undo_next()
                continue
            self._begin()
            if not self._tasks:
                standing = course.resting()
                if standing is None:
                    assert course.open, f"{self.saga.id} waits for nothing"
                    continue
                await self._write(Write((), standing))
                return
            await self._until_changed()
        while self._tasks:
            await self._until_changed()

    def _begin(self) -> None:
        """Begin what is due of what the code waits for."""
        now = self.tools.clock.monotonic()
        for opened in list(self.course.open.values()):
            if opened.is_running or opened.due > now:
                continue
            opened.is_running = True
            work = self._wake(opened) if isinstance(opened.operation.work, Sleep) else self._step(opened)
            task = asyncio.create_task(work, name=f"{self.saga.type} {self.saga.id} {opened.operation.mark}")
            self._tasks.add(task)
            task.add_done_callback(lambda _: self._changed.set())

    async def _until_changed(self) -> None:
        """Wait until something has ended, or something else is due. Raises what an operation's task raised."""
        clock = self.tools.clock
        dues = [each.due for each in self.course.open.values() if not each.is_running]
        wait = timedelta(seconds=max(min(dues, default=clock.monotonic() + 60) - clock.monotonic(), 0))
        await clock.wait(self._changed, wait)
        self._changed.clear()
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    async def _wake(self, opened: Open) -> None:
        async with self.writing:
            await self._write(await outside_of_tasks(partial(self.course.ended, opened.path, "null", None)))

    async def _step(self, opened: Open) -> None:
        mark, step, course = opened.operation.mark, opened.operation.work, self.course

        async def plan(text: str, value: object) -> Write:
            return await outside_of_tasks(partial(course.ended, mark.path, text, value))

        await self._make(
            Attempt(self, mark, step, opened.attempts + 1, plan, undoing=False), partial(self._fail, opened)
        )
        opened.is_running = False

    async def _undo_next(self) -> None:
        course, operation = self.course, self.course.to_undo()
        assert operation is not None, "a saga of which nothing is to be undone has ended"

        async def plan(_text: str, _value: object) -> Write:
            return course.undone(operation)

        number = course.undo_attempts.get(operation.mark.path, 0) + 1
        attempt = Attempt(self, operation.mark, operation.work, number, plan, undoing=True)
        await self._make(attempt, partial(self._fail_to_undo, operation))

    async def _make(self, attempt: Attempt, fail: Callable[[BaseException], Awaitable[None]]) -> None:
        """Make an attempt, and do what follows."""
        course = self.course
        try:
            async with self.tools.slots:
                result = await attempt.run()
            await self._conclude(attempt, result, fail)
        except BaseException:
            course.is_dropped = True  # before others, who wait for the lock, go on with what may not be written
            raise
        finally:
            attempt.release()

    async def _conclude(
        self, attempt: Attempt, result: Result, fail: Callable[[BaseException], Awaitable[None]]
    ) -> None:
        """Do what follows an attempt, and let others write again."""
        error = result.error
        if result.came is Came.DONE:
            assert attempt.write is not None, "what is committed was planned"
            self._took(attempt.write)
            self.tools.hooks.tell(StepDone(self.saga.type, self.saga.id, attempt.mark.name, attempt.undoing))
            return
        if not attempt.is_told:
            attempt.release()
        if isinstance(error, LeaseLost) or result.came is Came.REFUSED:
            raise LeaseLost(f"Another process goes on with {self.saga.id}.")
        if result.came is Came.OUTAGE:
            await self.tools.outages.pause(error)
            if attempt.is_told:
                raise Ahead
            return
        assert error is not None, f"{result.came} comes with an error"
        told = StepRaised(self.saga.type, self.saga.id, attempt.mark.name, error, attempt.number, attempt.undoing)
        self.tools.hooks.tell(told)
        if result.ended or result.came is Came.ENDED:
            await self._half_done(attempt.mark, error)
        elif attempt.is_told:
            raise Ahead(attempt.mark.path, error)
        else:
            await fail(error)

    async def _fail(self, opened: Open, error: BaseException) -> None:
        """Write down that a step has failed, and tell the code or let it be tried again."""
        step: Any = opened.operation.work
        errors = self._definition.options.errors
        decision = after_attempt(
            error,
            opened.attempts + 1,
            ladder=step.ladder,
            errors=(Reject, *errors),
            random=self.tools.random,
            gives_up=not self.course.is_past_pivot,
        )
        async with self.writing:
            if isinstance(decision, Tell):
                told = partial(self.course.failed, opened.path, decision.failure)
                await self._write(await outside_of_tasks(told))
            else:
                await self._write(self.course.again(opened.path, decision))

    async def _fail_to_undo(self, operation: Operation[Any], error: BaseException) -> None:
        number = self.course.undo_attempts.get(operation.mark.path, 0) + 1
        ladder = operation.work.ladder
        decision = after_attempt(error, number, ladder=ladder, errors=(), random=self.tools.random, gives_up=False)
        assert not isinstance(decision, Tell), "an undoing does not give up"
        await self._write(self.course.undo_again(operation, decision))

    async def _half_done(self, mark: Mark, error: BaseException) -> None:
        """Leave a saga to a person whose step has ended its transaction by itself: to repeat it could do it twice."""
        why = f"{mark.name} has ended its transaction by itself, and perhaps done half of its work: {one_of(error)}"
        status = Status.RUNNING if self.course.failure is None else Status.COMPENSATING
        await self._write(Write((), Standing(status, None, is_owned=False, attention=why)))

    async def _write(self, write: Write) -> None:
        """Write in a transaction of our own. Raises Ahead where it is not known whether that is committed."""
        rows = self.course.rows

        def work(connection: Connection) -> None:
            self.put(connection, rows, write)

        try:
            await self.tools.database.transact(work)
        except Exception as error:
            if not may_pass(error):
                raise
            self.course.is_dropped = True
            await self.tools.outages.pause(error)
            raise Ahead from error
        self.tools.outages.fine()
        self._took(write)

    def put(self, connection: Connection, rows: int, write: Write) -> None:
        """Write in a connection's transaction: the facts, where the saga stands, and what it sends."""
        tools, instance = self.tools, self.course.instance
        tools.store.write(connection, self.saga, rows + 1, write)
        for path, event in write.emits:
            message_id = instance.message_id(f"{self.saga.run}/{path}")
            tools.outbox.add(connection, event, headers=instance.lineage(), message_id=message_id)

    def _took(self, write: Write) -> None:
        """A write is committed."""
        self.course.rows += bool(write.facts)
        standing, saga, hooks = write.standing, self.saga, self.tools.hooks
        if standing is None:
            return
        self._is_over = self._is_over or not standing.is_owned
        if standing.attention is not None and standing.attention != saga.attention:
            logger.error("%s %s needs a look: %s", saga.type, saga.id, standing.attention)
            hooks.tell(SagaNeedsAttention(saga.type, saga.id, standing.attention))
        if standing.is_end:
            hooks.tell(SagaEnded(saga.type, saga.id, standing.status, standing.error))

    async def _put_away(self, course: Course) -> None:
        """Let go of all that was begun for a course, and of its code."""
        course.is_dropped = True
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for trouble in await outside_of_tasks(course.close):
            logger.warning("the code of %s %s: %s", self.saga.type, self.saga.id, trouble)
