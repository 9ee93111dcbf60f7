"""What follows a failure: pure decisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from txpatterns.causes import members_of, summary_of
from txpatterns.errors import (
    AddRefused,
    ConfigurationError,
    NotBegun,
    Reject,
    Retry,
    SagaValueRefused,
    StepFailed,
    WaitTimedOut,
)
from txpatterns.retries import LONGEST_WAIT, RetryLadder, spread
from txpatterns.sagas.facts import Fact, Failure, Noted
from txpatterns.sagas.operations import Aborted, Kind
from txpatterns.text import storable

_MISTAKES = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
    RuntimeError,
    ConfigurationError,
    AddRefused,
    SagaValueRefused,
)
"""What code raises that is wrong itself; a deploy mends it, and nothing is to be undone for it."""
_ABORTED = f"{Aborted.__module__}:{Aborted.__qualname__}"
_TIMED_OUT = f"{WaitTimedOut.__module__}:{WaitTimedOut.__qualname__}"
_LONGEST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Tell:
    """The saga's code is told: the operation has failed for good."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Again:
    """There is another attempt, after this time."""

    after: timedelta
    failure: Failure
    needs_attention: bool = False
    """Whether a person should look at it meanwhile."""
    counts: bool = True
    """Whether the attempt counts."""

    @property
    def goes_on_like_that(self) -> bool:
        """Whether the next attempts may end in the same way, without an end."""
        return self.needs_attention or not self.counts


def after_attempt(
    error: BaseException,
    attempts: int,
    *,
    ladder: RetryLadder,
    errors: Sequence[type[Exception]],
    random: Random,
    gives_up: bool = True,
) -> Tell | Again:
    """Decide what follows the ``attempts``-th failed attempt of an operation, whose effect was rolled back.

    What is one of ``errors`` is told at once. Otherwise the ladder is climbed. When it is
    used up the code is told, but not of a mistake in the action, which a deploy mends, and not where the operation must
    succeed (``gives_up`` is false): then the last wait is taken again and again, and a person is told.
    """
    failure = failure_of(error, errors)
    if isinstance(error, NotBegun):
        return Again(spread(error, random), failure, counts=False)
    if isinstance(error, tuple(errors)):
        return Tell(failure)
    wait = ladder.delay(attempts, random)
    if wait is not None and isinstance(error, Retry) and error.after is not None:
        wait = min(max(error.after, timedelta(0)), LONGEST_WAIT)
    if wait is not None:
        return Again(wait, failure)
    if not gives_up or is_mistake(error):
        return Again(ladder.delay_for_ever(attempts, random), failure, needs_attention=True)
    return Tell(failure)


def meant_by(error: BaseException, errors: Sequence[type[Exception]]) -> BaseException:
    """Give what decides about an error of a step, all of which is rolled back: of a group one of its members may.

    That is the first that the saga expects. A group of which all members say that they were not begun was not begun;
    of those that name a wait the longest counts. Of a call a group decides nothing: its other parts may have had their
    effect.
    """
    leaves = _leaves_of(error)
    for leaf in leaves:
        if isinstance(leaf, tuple(errors)):
            return leaf
    not_begun = [leaf for leaf in leaves if isinstance(leaf, NotBegun)]
    if len(not_begun) == len(leaves):
        return max(not_begun, key=lambda leaf: leaf.after)
    waits = [leaf for leaf in leaves if isinstance(leaf, Retry) and leaf.after is not None]
    return max(waits, key=lambda leaf: leaf.after or timedelta(0), default=error)


def _leaves_of(error: BaseException) -> list[BaseException]:
    """Give the errors of a group, at whatever depth; of another error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for member in members_of(error) for leaf in _leaves_of(member)]


def undoes(error: BaseException, errors: Sequence[type[Exception]]) -> bool:
    """Whether an error that leaves the saga's code undoes the saga; otherwise a person decides.

    What the saga names in ``errors`` is no mistake, whatever it derives from.
    """
    expected = (Aborted, StepFailed, *errors)
    return any(isinstance(leaf, expected) for leaf in _leaves_of(error)) or not is_mistake(error)


def is_mistake(error: BaseException) -> bool:
    """Whether code is wrong that raises this, or a group with this among its members."""
    return any(isinstance(leaf, _MISTAKES) or not isinstance(leaf, Exception) for leaf in _leaves_of(error))


def aborted(why: str) -> Failure:
    """Give the failure of a saga that is undone by somebody else than its code."""
    return Failure(_ABORTED, why)


def line_of(failure: Failure) -> str:
    """Say in a line why a saga is undone."""
    module, _, name = failure.type.rpartition(":")
    text = failure.text
    return text if text.startswith((f"{name}:", f"{module}.{name}:")) else f"{name}: {text}"


def is_past_pivot(facts: Iterable[Fact]) -> bool:
    """Whether a journal says that its saga only goes forward."""
    return any(isinstance(fact, Noted) and fact.mark.kind == Kind.PIVOT for fact in facts)


def failure_of(error: BaseException, errors: Sequence[type[Exception]] = ()) -> Failure:
    """Give an error as the journal keeps it."""
    if isinstance(error, StepFailed):
        return Failure(error.type, error.text, unknown=error.unknown)
    if isinstance(error, WaitTimedOut):
        return Failure(_TIMED_OUT, error.message)
    kind = type(error)
    arguments = _arguments_of(error) if isinstance(error, tuple(errors)) else None
    return Failure(
        f"{kind.__module__}:{kind.__qualname__}", storable(_text_of(error, errors), _LONGEST_TEXT), arguments
    )


def error_of(failure: Failure, errors: Sequence[type[Exception]]) -> Exception:
    """Make the error that the saga's code is told: the same from the journal as when it happened."""
    if failure.arguments is not None:
        for kind in errors:
            if f"{kind.__module__}:{kind.__qualname__}" == failure.type:
                return kind(*json.loads(failure.arguments))
    if failure.type == _TIMED_OUT:
        return WaitTimedOut(failure.text)
    return StepFailed(failure.type, failure.text, unknown=failure.unknown)


def _text_of(error: BaseException, errors: Sequence[type[Exception]]) -> str:
    try:
        return str(error) if isinstance(error, (Aborted, Reject, *errors)) else summary_of(error)
    except Exception:  # noqa: BLE001 - of an application's class, which may fail at telling what went wrong
        return summary_of(error)


def _arguments_of(error: BaseException) -> str | None:
    """Give what an error's class is called with to make it again; None where that makes another."""
    try:
        text = json.dumps(error.args)
        again = type(error)(*json.loads(text))
        return text if (str(again), again.args) == (str(error), error.args) else None
    except Exception:  # noqa: BLE001 - whatever its class says to that, it cannot be made again
        return None
