"""How often a part looks by itself for what there is to do, and when."""

from __future__ import annotations

from random import Random

from txpatterns.clock import Clock, SystemClock
from txpatterns.coordination.hearing import Hearing

SELDOM = 5
"""So many times as long may pass between two looks while wake-ups are known to arrive."""

_EARLY = 0.02
"""A timer may end before its time: what is left of a round then is no round of its own."""
_PHASE = Random().random()


def until_round(clock: Clock, seconds: float) -> float:
    """Give how long until the next of the moments that are so many seconds apart, the same for all of this process.

    What an idle process does costs little beside waking up for it, so all of its parts do it at the same moments. Those
    of another process are others, so that they do not all come to a server at once; but a clock that is moved by hand
    has the same in each run.
    """
    phase = _PHASE if isinstance(clock, SystemClock) else 0.0
    left = seconds - (clock.monotonic() + phase * seconds) % seconds
    return left if left > _EARLY * seconds else left + seconds


class Pace:
    """The time between two looks: what the settings say, or up to five times that while a wake-up would come before.

    A wake-up is a hint: one that is lost costs the longer time, and no more.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hearing: Hearing | None = None

    def follow(self, hearing: Hearing) -> None:
        """Look at leisure from now on, whenever ``hearing`` says that wake-ups arrive."""
        self._hearing = hearing

    def between_looks(self, seconds: float) -> float:
        """Give how long may pass at this moment, where the settings say so many seconds."""
        if self._hearing is None or not self._hearing.hears:
            return seconds
        return until_round(self._clock, seconds * SELDOM)
