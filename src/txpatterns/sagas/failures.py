"""What follows a failed attempt of an operation, or of undoing one: it is told, written down, and tried again."""

from __future__ import annotations

from functools import partial

from txpatterns.errors import Reject
from txpatterns.retries import RetryLadder
from txpatterns.sagas import attempts, compensation
from txpatterns.sagas.decisions import Again, Tell, after_attempt, failure_of, meant_by
from txpatterns.sagas.facts import Mark
from txpatterns.sagas.moments import StepRaised
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.tools import outside_of_tasks
from txpatterns.sagas.undoing import Deed
from txpatterns.sagas.writer import SagaWriter


class Failures:
    """The failures of one course."""

    def __init__(self, writer: SagaWriter) -> None:
        self._writer = writer

    @property
    def _expected(self) -> tuple[type[Exception], ...]:
        """What the code is told at once."""
        return (Reject, *self._writer.course.definition.options.errors)

    async def of_step(self, opened: Open, error: BaseException) -> None:
        """A step has failed: the code is told, or it is tried again."""
        meant = meant_by(error, self._expected)
        await self.follow(opened, self.decide(meant, opened, opened.operation.work.ladder))

    async def of_waiting(self, opened: Open, error: BaseException) -> None:
        """What would be waited for cannot be: the code is told."""
        await self.follow(opened, Tell(failure_of(error)))

    def decide(self, error: BaseException, opened: Open, ladder: RetryLadder) -> Tell | Again:
        """Decide what follows an attempt."""
        return after_attempt(
            error,
            opened.attempts + 1,
            ladder=ladder,
            errors=self._expected,
            random=self._writer.tools.random,
            gives_up=not self._writer.course.is_past_pivot,
        )

    async def follow(self, opened: Open, decision: Tell | Again) -> None:
        """Do what was decided."""
        async with self._writer.alone():
            if isinstance(decision, Tell):
                told = partial(self._writer.course.failed, opened.path, decision.failure)
                await self._writer.write(await outside_of_tasks(told))
            else:
                await self._writer.write(attempts.again(self._writer.course, opened.path, decision))

    async def of_undoing(self, deed: Deed, error: BaseException) -> None:
        """Undoing something has failed: it is tried again."""
        number = self._writer.course.undoing.attempts.get(deed.path, 0) + 1
        ladder = deed.operation.work.ladder
        decision = after_attempt(
            error, number, ladder=ladder, errors=(), random=self._writer.tools.random, gives_up=False
        )
        assert not isinstance(decision, Tell), "an undoing does not give up"
        await self._writer.write(compensation.again(self._writer.course, deed, decision))

    def tell(self, mark: Mark, error: BaseException, attempt: int, *, undoing: bool = False) -> None:
        """Tell the listeners of an attempt that failed."""
        saga = self._writer.saga
        meant = meant_by(error, self._expected) if mark.kind == Kind.STEP else error
        expected = isinstance(meant, self._expected) and not undoing
        self._writer.tools.hooks.tell(StepRaised(saga.type, saga.id, mark.name, error, attempt, undoing, expected))
