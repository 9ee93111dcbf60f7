"""What happens to sagas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from txpatterns.hooks import Moment, Span


@dataclass(frozen=True, slots=True)
class StepRuns(Span):
    """A step or a call, or the compensation of one, runs, until it has ended."""

    type: str
    saga_id: str
    step: str
    attempt: int
    undoing: bool
    headers: Mapping[str, str]
    """What was stored with the start: the correlation id, and the trace."""


@dataclass(frozen=True, slots=True)
class StepDone(Moment):
    """A step or a call has had its effect, or is undone."""

    type: str
    saga_id: str
    step: str
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class StepRaised(Moment):
    """A step or a call raised. What a step wrote is rolled back."""

    type: str
    saga_id: str
    step: str
    error: BaseException
    attempt: int
    undoing: bool = False
    expected: bool = False
    """Whether the saga has named such errors, so that its code is told of it."""


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
