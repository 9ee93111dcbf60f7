"""Until when a saga must have come to its pivot, as the process knows it that runs it."""

from __future__ import annotations

from datetime import timedelta
from math import inf

from txpatterns.clock import Clock


class Deadline:
    """The deadline of one saga, by the monotonic clock; none, until it is set."""

    def __init__(self, clock: Clock) -> None:
        self.at = inf
        self.held_until = 0.0
        """From when on it counts, at the earliest."""
        self._clock = clock

    @property
    def is_held(self) -> bool:
        """Whether it does not count yet."""
        return self._clock.monotonic() < self.held_until

    @property
    def is_past(self) -> bool:
        """Whether it has passed, and nothing has followed from that yet."""
        return self._clock.monotonic() >= self.at

    def set(self, after: timedelta) -> None:
        """It is after this time, or when it is held no longer."""
        self.at = max(self._clock.monotonic() + after.total_seconds(), self.held_until)

    def lift(self) -> None:
        """It counts no more."""
        self.at = inf

    def or_sooner(self, after: timedelta | None) -> timedelta | None:
        """Give the time until then, or this one where it is sooner; None: never."""
        left = self.at - self._clock.monotonic()
        if left == inf:
            return after
        until = timedelta(seconds=max(left, 0.0))
        return until if after is None else min(after, until)
