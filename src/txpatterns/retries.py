"""What becomes of a message that failed, when it is tried again, and what its key does meanwhile: pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from random import Random

from txpatterns.causes import cause_of, members_of
from txpatterns.errors import ConfigurationError, HandlerSignal, NotBegun, Reject, Retry

LONGEST_WAIT = timedelta(days=36_500)
"""Later moments do not fit into every database."""
WITHOUT_LADDER = timedelta(minutes=1)
"""Between the attempts of what must succeed, where a ladder has no waits."""
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
        check_kind(timedelta, *self.delays)
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

    def delay_for_ever(self, attempts: int, random: Random) -> timedelta:
        """Give the wait after this many attempts; when they are used up, the last one again and again."""
        last = self.delay(min(attempts, len(self.delays)), random) if self.delays else None
        return last or WITHOUT_LADDER


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """How failures of one topic are treated."""

    on_failure: OnFailure = OnFailure.HOLD
    ladder: RetryLadder = field(default_factory=RetryLadder)

    def __post_init__(self) -> None:
        check_kind(OnFailure, self.on_failure)
        check_kind(RetryLadder, self.ladder)


@dataclass(frozen=True, slots=True)
class FailurePolicies:
    """A policy for each topic, and one for the rest."""

    default: FailurePolicy = field(default_factory=FailurePolicy)
    topics: Mapping[str, FailurePolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind(FailurePolicy, self.default, *self.topics.values())

    def of(self, topic: str) -> FailurePolicy:
        """Give the policy of a topic."""
        return self.topics.get(topic, self.default)


@dataclass(frozen=True, slots=True)
class Again:
    """The message gets another attempt after this time."""

    after: timedelta
    counts: bool = True
    """Whether the attempt that failed counts."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The message becomes a dead letter for this reason."""

    reason: str


Decision = Again | Dead

_CATCH_ALL = (Exception, BaseException)
_MOST = 100
"""Errors looked at: a chain may be as long as a loop that went on failing."""


@dataclass(frozen=True, slots=True)
class FailureRules:
    """How one handler's errors are treated where they differ from its topic's policy.

    ``permanent`` errors make a dead letter at once. ``ladders`` gives the waits for some errors, the most specific
    class first found in the error's own order of inheritance.
    """

    permanent: tuple[type[BaseException], ...] = ()
    ladders: Mapping[type[Exception], RetryLadder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: tuple[object, ...] = (*self.permanent, *self.ladders)
        for kind in given:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError(
                    f"{kind!r} is no class of errors.", fix="Write, for example: permanent=[ValueError]"
                )
        check_kind(RetryLadder, *self.ladders.values())

    @classmethod
    def of(
        cls, permanent: Iterable[type[BaseException]], ladders: Mapping[type[Exception], RetryLadder]
    ) -> FailureRules:
        """Make the rules of what was given. Raises ConfigurationError for what is no list, or no ladder."""
        given: tuple[object, object] = (permanent, ladders)
        if not (isinstance(given[0], Iterable) and isinstance(given[1], Mapping)):
            raise ConfigurationError(
                "permanent takes a list of error classes, and retries the ladder for each of some.",
                fix="Write, for example: permanent=[ValueError], retries={OSError: RetryLadder(...)}",
            )
        return cls(tuple(permanent), dict(ladders))

    def ladder_of(self, error: BaseException, usual: RetryLadder) -> RetryLadder:
        """Give the ladder for an error."""
        found = (self.ladders[kind] for kind in type(error).__mro__ if kind in self.ladders)
        return next(found, usual)

    def most_attempts(self, usual: RetryLadder) -> int:
        """Say how many attempts a message can have, whatever its errors are."""
        return max(ladder.attempts for ladder in (usual, *self.ladders.values()))

    def names(self, error: BaseException) -> bool:
        """Whether it is said what to do about this very kind of error, not only about all kinds."""
        kinds = tuple(kind for kind in (*self.permanent, *self.ladders) if kind not in _CATCH_ALL)
        return isinstance(error, (HandlerSignal, NotBegun, *kinds))

    def ends(self, error: BaseException) -> bool:
        """Whether no further attempt is made after this error."""
        kinds = self.permanent
        if isinstance(error, NotBegun):  # of all errors it is the one that says nothing about the message
            kinds = tuple(kind for kind in kinds if kind not in _CATCH_ALL)
        return isinstance(error, kinds) and not isinstance(error, Retry)

    def lets_wait(self, error: BaseException) -> bool:
        """Whether an error says that something was not begun, and nothing else is said about such errors."""
        return isinstance(error, NotBegun) and not any(
            kind in self.ladders for kind in type(error).__mro__ if kind not in _CATCH_ALL
        )


def decide(
    error: BaseException, attempts: int, *, rules: FailureRules, ladder: RetryLadder, random: Random
) -> Decision:
    """Decide what follows a failed attempt, the ``attempts``-th one.

    What a handler means may stand inside of what it raises. Of each member of an exception group, and of what
    ``raise … from`` puts another error around, the outermost error decides that the rules name or that is a signal;
    without any, the error itself. An error that was merely being handled when another one came decides nothing. Where
    several decide, one that ends the message wins, otherwise the longest wait. Where all of it says that a call was not
    even begun, as behind an open circuit breaker, the attempt does not count.
    """
    deciding = list(_named(error, rules, set())) or [error]
    if any(isinstance(each, Reject) for each in deciding):
        return Dead("rejected")
    if any(map(rules.ends, deciding)):
        return Dead("permanent")
    if all(map(rules.lets_wait, deciding)) and len(members_of(error)) <= len(deciding):
        return Again(max(spread(each, random) for each in deciding if isinstance(each, NotBegun)), counts=False)
    waits = [_wait_of(each, rules.ladder_of(each, ladder).delay(attempts, random)) for each in deciding]
    return max((Again(wait) for wait in waits if wait is not None), key=lambda again: again.after, default=_EXHAUSTED)


_EXHAUSTED = Dead("exhausted")


def spread(error: NotBegun, random: Random) -> timedelta:
    """Say how long to wait before something is begun that was not: not all at the same moment."""
    after = min(max(error.after, timedelta(0)), LONGEST_WAIT)
    return min(after * (1 + random.random() * error.spread), LONGEST_WAIT)


def _wait_of(error: BaseException, by_ladder: timedelta | None) -> timedelta | None:
    if by_ladder is None or not isinstance(error, Retry) or error.after is None:
        return by_ladder
    return min(max(error.after, timedelta(0)), LONGEST_WAIT)


def _named(error: BaseException, rules: FailureRules, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen or len(seen) == _MOST:
        return
    seen.add(id(error))
    found = False
    for member in members_of(error):
        for each in _named(member, rules, seen):
            found = True
            yield each
    if found:
        return
    if rules.names(error):
        yield error
    elif (cause := cause_of(error)) is not None:
        yield from _named(cause, rules, seen)


def check_kind(kind: type, *values: object) -> None:
    """Refuse what is said about failures with objects of another class. Raises ConfigurationError."""
    for value in values:
        if not isinstance(value, kind):
            raise ConfigurationError(
                f"{value!r} is no {kind.__name__}.",
                fix="Write, for example: "
                "FailurePolicies(FailurePolicy(OnFailure.PARK, RetryLadder((timedelta(seconds=1),))))",
            )
