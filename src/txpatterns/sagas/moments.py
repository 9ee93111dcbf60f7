"""What happens to sagas."""

from __future__ import annotations

from dataclasses import dataclass

from txpatterns.hooks import Moment, Span


@dataclass(frozen=True, slots=True)
class StepRuns(Span):
    """A step, or the compensation of one, runs, until its transaction has ended."""

    type: str
    saga_id: str
    step: str
    attempt: int
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class StepDone(Moment):
    """A step's effect is committed, or undone."""

    type: str
    saga_id: str
    step: str
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class StepRaised(Moment):
    """A step raised; all that it wrote is rolled back."""

    type: str
    saga_id: str
    step: str
    error: BaseException
    attempt: int
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class SagaEnded(Moment):
    """A saga has come to its end: completed, or compensated."""

    type: str
    saga_id: str
    status: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SagaNeedsAttention(Moment):
    """A person should look at a saga: it cannot go on by itself, or has failed for long."""

    type: str
    saga_id: str
    reason: str
