"""When to try again, and what happens to a key meanwhile: pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from random import Random

from txpatterns.errors import ConfigurationError

LADDER = tuple(timedelta(seconds=s) for s in (1, 5, 30, 120, 600, 1800))


class OnFailure(StrEnum):
    """What the later messages of a key do while an earlier one fails."""

    HOLD = "hold"
    """They wait; when the failing message has become a dead letter, they go on."""
    PARK = "park"
    """They wait; when the failing message has become a dead letter, they wait on for an operator."""
    SKIP = "skip"
    """They do not wait: the failing message is retried outside the order."""


@dataclass(frozen=True, slots=True)
class RetryLadder:
    """The waits between the attempts; after the last one the message becomes a dead letter.

    Each wait lies between its step and the step times (1 + jitter), so that retries do not march in step.
    """

    delays: tuple[timedelta, ...] = LADDER
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_kind(timedelta, *self.delays)
        if any(delay <= timedelta(0) for delay in self.delays) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                "Ladder delays must be positive and jitter between 0 and 1.",
                fix="Write, for example: RetryLadder((timedelta(seconds=1), timedelta(seconds=30)), jitter=0.1)",
            )

    @property
    def attempts(self) -> int:
        """How many attempts there are in all, the first one included."""
        return len(self.delays) + 1

    @property
    def total(self) -> timedelta:
        """The longest time from the first attempt to the last."""
        return sum(self.delays, timedelta(0)) * (1 + self.jitter)

    def delay(self, attempts: int, random: Random) -> timedelta | None:
        """Give the wait after this many attempts; None when they are used up."""
        if attempts >= self.attempts:
            return None
        return self.delays[attempts - 1] * (1 + random.random() * self.jitter)


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """How failures of one topic are treated."""

    on_failure: OnFailure = OnFailure.HOLD
    ladder: RetryLadder = field(default_factory=RetryLadder)

    def __post_init__(self) -> None:
        _check_kind(OnFailure, self.on_failure)
        _check_kind(RetryLadder, self.ladder)


@dataclass(frozen=True, slots=True)
class FailurePolicies:
    """A policy for each topic, and one for the rest."""

    default: FailurePolicy = field(default_factory=FailurePolicy)
    topics: Mapping[str, FailurePolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_kind(FailurePolicy, self.default, *self.topics.values())

    def of(self, topic: str) -> FailurePolicy:
        """Give the policy of a topic."""
        return self.topics.get(topic, self.default)


def _check_kind(kind: type, *values: object) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise ConfigurationError(
                f"{value!r} is no {kind.__name__}.",
                fix="Write, for example: FailurePolicy(OnFailure.PARK, RetryLadder((timedelta(seconds=1),)))",
            )
