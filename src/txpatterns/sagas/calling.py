"""One attempt of a call to somebody else, or of undoing one: the user's code, outside of any transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from txpatterns.causes import one_of
from txpatterns.correlation import correlated
from txpatterns.errors import NotBegun, Reject, SagaDefinitionError
from txpatterns.execution.calls import is_not_the_codes
from txpatterns.retries import RetryLadder
from txpatterns.sagas import attempts, compensation
from txpatterns.sagas.calls import Call, Done, Doubt, NotDone, Undo, Unknown
from txpatterns.sagas.course import Course
from txpatterns.sagas.decisions import Again, Tell
from txpatterns.sagas.failures import Failures
from txpatterns.sagas.moments import StepRuns
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import CallOut, Operation
from txpatterns.sagas.store import Write
from txpatterns.sagas.tools import Tools, outside_of_tasks
from txpatterns.sagas.undoing import Deed
from txpatterns.sagas.writer import SagaWriter

_UNKNOWN = "nobody knows whether {} has had its effect"


class Asks(Exception):
    """Nobody knows whether a call has had its effect, and a person is to be asked."""


class GivenUp(Exception):
    """Nobody knows whether a call has had its effect, and it counts as failed."""


class StillUnknown(Exception):
    """A probe has found out nothing about the call."""


class Calling:
    """One attempt. It raises whatever the user's code raises."""

    def __init__(self, tools: Tools, course: Course, operation: Operation[Any], number: int) -> None:
        self._tools = tools
        self._course = course
        self._mark = operation.mark
        self._work: CallOut = operation.work
        self._number = number

    @property
    def key(self) -> str:
        """What tells this call from all others."""
        saga = self._course.saga
        return f"{saga.type}/{saga.id}/{saga.run}/{self._mark.path}"

    async def made(self, *, in_doubt: bool) -> object:
        """Make the call; where it may have been made before, find out what has become of it first."""
        call, work = Call(self.key, self._number), self._work
        if in_doubt and work.probe is not None:
            found = await self._cut_off(work.probe, call)
            match found:
                case Done():
                    return found.result
                case Unknown():
                    raise StillUnknown(f"the probe of {self._mark.name} has found out nothing")
                case NotDone():
                    pass
                case _:
                    raise SagaDefinitionError(
                        f"The probe of {self._mark.name} gave {type(found).__name__}.",
                        fix="Give Done(result), NotDone() or Unknown().",
                    )
        elif in_doubt and work.doubt is Doubt.ASK:
            raise Asks(_UNKNOWN.format(self._mark.name))
        elif in_doubt and work.doubt is Doubt.COMPENSATE:
            raise GivenUp(_UNKNOWN.format(self._mark.name))
        return await self._cut_off(work.action, call)

    async def undone(self, deed: Deed) -> None:
        """Undo the call."""
        assert self._work.compensate is not None, "what has no compensation is not undone"
        undo = Undo(f"{self.key}/undo", self._number, self.key, deed.result)
        await self._cut_off(self._work.compensate, undo, undoing=True)

    async def _cut_off(self, code: Callable[..., Awaitable[Any]], first: Call, *, undoing: bool = False) -> Any:
        """Run the user's code within the call's time."""
        task = asyncio.current_task()
        try:
            with self._around(undoing=undoing):
                async with asyncio.timeout(self._work.timeout / timedelta(seconds=1)):
                    return await code(first, *self._work.arguments)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            raise RuntimeError(f"Something that {self._mark.name} awaited was cancelled.") from error
        except BaseException as error:
            if isinstance(error, Exception) or is_not_the_codes(error, task):
                raise
            raise RuntimeError(f"{self._mark.name} raised {one_of(error)}") from error

    @contextmanager
    def _around(self, *, undoing: bool) -> Iterator[None]:
        saga, hooks = self._course.saga, self._tools.hooks
        runs = StepRuns(saga.type, saga.id, self._mark.name, self._number, undoing, saga.headers)
        with correlated(self._course.instance.correlation_id), hooks.within(runs):
            yield


class Calls:
    """The calls of one course."""

    def __init__(self, writer: SagaWriter, failures: Failures) -> None:
        self._writer = writer
        self._failures = failures

    async def run(self, opened: Open) -> None:
        """Make a call, or find out what has become of it, and write that down."""
        course, operation = self._writer.course, opened.operation
        if not opened.is_begun:
            async with self._writer.alone():
                await self._writer.write(attempts.begins(course, opened.path))
        try:
            attempt = Calling(self._writer.tools, course, operation, opened.attempts + 1)
            value = await attempt.made(in_doubt=opened.is_in_doubt)
            text, back = operation.work.form.write(value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an attempt that failed
            self._failures.tell(operation.mark, error, opened.attempts + 1)
            await self._fail(opened, error)
        else:
            async with self._writer.alone():
                await self._writer.write(await outside_of_tasks(partial(course.ended, opened.path, text, back)))
            self._writer.tell_done(operation.mark)
        opened.is_running = False

    async def _fail(self, opened: Open, error: Exception) -> None:
        work: CallOut = opened.operation.work
        if isinstance(error, Asks):
            async with self._writer.alone():
                await self._writer.ask(str(error))
            return
        refused = isinstance(error, (NotBegun, Reject, *self._writer.course.definition.options.errors))
        gives_up = isinstance(error, GivenUp) or (work.doubt is Doubt.COMPENSATE and work.probe is None)
        ladder = RetryLadder(()) if gives_up else work.ladder
        decision = self._failures.decide(error, opened, ladder)
        if work.doubt is Doubt.ASK and not refused:
            if work.probe is None:
                decision = Again(timedelta(0), decision.failure)  # which asks, for it is in doubt then
            elif isinstance(decision, Tell):
                async with self._writer.alone():
                    await self._writer.ask(_UNKNOWN.format(opened.operation.mark.name))
                return
        if isinstance(decision, Tell) and not refused:
            decision = Tell(replace(decision.failure, unknown=True))
        await self._failures.follow(opened, decision)

    async def undo(self, deed: Deed) -> None:
        """Undo a call, when its request cannot be under way any more."""
        course, mark = self._writer.course, deed.operation.mark
        waits = deed.settled_at - self._writer.tools.clock.monotonic()
        if waits > 0:
            await self._writer.write(Write((), compensation.later(course, timedelta(seconds=waits))))
            return
        number = course.undoing.attempts.get(deed.path, 0) + 1
        try:
            await Calling(self._writer.tools, course, deed.operation, number).undone(deed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an attempt that failed
            self._failures.tell(mark, error, number, undoing=True)
            await self._failures.of_undoing(deed, error)
        else:
            await self._writer.write(compensation.undone(course, deed))
            self._writer.tell_done(mark, undoing=True)
