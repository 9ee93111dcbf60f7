"""When an owner looks who is there: at a third of its lease, and at once when it hears that somebody comes or goes."""

from __future__ import annotations

from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.coordination.pace import until_round

_APART = 0.2
"""Between two looks who is there, however many come and go."""
_HAND_OVER_EVERY = 0.05


class Tending:
    """The times of these looks, in seconds of the monotonic clock."""

    def __init__(self, clock: Clock, lease: timedelta) -> None:
        self.every = lease.total_seconds() / 3
        self.members_changed = False
        """Another member has come or gone: there is a look at once."""
        self._clock = clock
        self._next_at = self._last_at = 0.0

    def begin(self) -> None:
        """The lease is new: the first renewal is due at a third of it."""
        self._next_at = self._clock.monotonic() + until_round(self._clock, self.every)

    def is_due(self, now: float) -> bool:
        """Whether it is time to renew the lease, or to see who has come or gone."""
        return now >= self._next_at or (self.members_changed and now >= self._last_at + _APART)

    def next_times(self) -> list[float]:
        """Say when the next look may be due."""
        return [self._next_at, *([self._last_at + _APART] if self.members_changed else [])]

    def done(self, *, handing_over: bool) -> None:
        """A look has ended. What is to be handed over, and is not free yet, is looked at again soon."""
        self._last_at = self._clock.monotonic()
        self._next_at = self._last_at + (_HAND_OVER_EVERY if handing_over else until_round(self._clock, self.every))
