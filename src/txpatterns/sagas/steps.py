"""Carrying out steps, and undoing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from txpatterns.causes import one_of
from txpatterns.errors import LeaseLost
from txpatterns.execution import Came, Result
from txpatterns.sagas import compensation
from txpatterns.sagas.attempt import Attempt
from txpatterns.sagas.claims import lost
from txpatterns.sagas.failures import Failures
from txpatterns.sagas.opened import Open
from txpatterns.sagas.store import Write
from txpatterns.sagas.tools import outside_of_tasks
from txpatterns.sagas.undoing import Deed
from txpatterns.sagas.writer import Ahead, SagaWriter


class Steps:
    """The steps of one course."""

    def __init__(self, writer: SagaWriter, failures: Failures) -> None:
        self._writer = writer
        self._failures = failures

    async def run(self, opened: Open) -> None:
        """Make an attempt of a step, and do what follows."""
        mark, step, course = opened.operation.mark, opened.operation.work, self._writer.course

        async def plan(text: str, value: object) -> Write:
            return await outside_of_tasks(partial(course.ended, mark.path, text, value))

        attempt = Attempt(self._writer, mark, step, opened.attempts + 1, plan, undoing=False)
        await self._make(attempt, partial(self._failures.of_step, opened))
        opened.is_running = False

    async def undo(self, deed: Deed) -> None:
        """Make an attempt to undo a step, and do what follows."""
        course = self._writer.course

        async def plan(_text: str, _value: object) -> Write:
            return compensation.undone(course, deed)

        number = course.undoing.attempts.get(deed.path, 0) + 1
        attempt = Attempt(self._writer, deed.operation.mark, deed.operation.work, number, plan, undoing=True)
        await self._make(attempt, partial(self._failures.of_undoing, deed))

    async def _make(self, attempt: Attempt, fail: Callable[[BaseException], Awaitable[None]]) -> None:
        """Make an attempt, and do what follows."""
        try:
            with self._writer.or_thrown_away():
                async with self._writer.tools.slots:
                    if self._writer.tools.outages.stopping.is_set():
                        return  # whoever has the saga next begins it
                    result = await attempt.run()
                await self._conclude(attempt, result, fail)
        finally:
            attempt.release()

    async def _conclude(
        self, attempt: Attempt, result: Result, fail: Callable[[BaseException], Awaitable[None]]
    ) -> None:
        """Do what follows an attempt, and let others write again."""
        error = result.error
        if result.came is Came.DONE:
            assert attempt.write is not None, "what is committed was planned"
            self._writer.took(attempt.write)
            self._writer.tell_done(attempt.mark, undoing=attempt.undoing)
            return
        if not attempt.is_told:
            attempt.release()
        if isinstance(error, LeaseLost) or result.came is Came.REFUSED:
            self._writer.check()
            raise lost(self._writer.saga)
        if result.came is Came.OUTAGE:
            await self._writer.tools.outages.pause(error)
            if attempt.is_told:
                raise Ahead
            return
        assert error is not None, f"{result.came} comes with an error"
        self._failures.tell(attempt.mark, error, attempt.number, undoing=attempt.undoing)
        if result.ended or result.came is Came.ENDED:
            await self._half_done(attempt, error)
        elif attempt.is_told:
            raise Ahead(attempt.mark.path, error)
        else:
            await fail(error)

    async def _half_done(self, attempt: Attempt, error: BaseException) -> None:
        """Leave a saga to a person whose step has ended its transaction by itself: to repeat it could do it twice."""
        name = attempt.mark.name
        why = f"{name} has ended its transaction by itself, and perhaps done half of its work: {one_of(error)}"
        if attempt.is_told:
            await self._writer.ask(why)
            raise Ahead
        async with self._writer.alone():
            await self._writer.ask(why)
