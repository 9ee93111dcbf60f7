"""What becomes of a message whose handler failed: a pure decision."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from txpatterns.errors import Reject, Retry
from txpatterns.retries import RetryLadder


@dataclass(frozen=True, slots=True)
class Again:
    """The message gets another attempt after this time."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class Dead:
    """The message becomes a dead letter for this reason."""

    reason: str


Decision = Again | Dead


@dataclass(frozen=True, slots=True)
class FailureRules:
    """How one handler's errors are treated where they differ from its topic's policy.

    ``permanent`` errors make a dead letter at once. ``ladders`` gives the waits for some errors, the most specific
    class first found in the error's own order of inheritance.
    """

    permanent: tuple[type[Exception], ...] = ()
    ladders: Mapping[type[Exception], RetryLadder] = field(default_factory=dict)

    def ladder_of(self, error: BaseException, usual: RetryLadder) -> RetryLadder:
        """Give the ladder for an error."""
        found = (self.ladders[kind] for kind in type(error).__mro__ if kind in self.ladders)
        return next(found, usual)

    def most_attempts(self, usual: RetryLadder) -> int:
        """Say how many attempts a message can have, whatever its errors are."""
        return max(ladder.attempts for ladder in (usual, *self.ladders.values()))


def decide(
    error: BaseException, attempts: int, *, rules: FailureRules, ladder: RetryLadder, random: Random
) -> Decision:
    """Decide what follows a failed attempt, the ``attempts``-th one."""
    if isinstance(error, Reject):
        return Dead("rejected")
    if isinstance(error, rules.permanent):
        return Dead("permanent")
    wait = rules.ladder_of(error, ladder).delay(attempts, random)
    if wait is None:
        return Dead("exhausted")
    if isinstance(error, Retry) and error.after is not None:
        return Again(max(error.after, timedelta(0)))
    return Again(wait)


def describe_error(error: BaseException) -> str:
    """Put an error into words: its class, its text, and the innermost line of code that raised it."""
    text = "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} (at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else text
