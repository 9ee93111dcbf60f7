"""How often a part looks by itself for what there is to do."""

from __future__ import annotations

from txpatterns.coordination.hearing import Hearing

SELDOM = 5
"""So many times as long may pass between two looks while wake-ups are known to arrive."""


class Pace:
    """The time between two looks: what the settings say, or five times as long while a wake-up would come before.

    A wake-up is a hint: one that is lost costs the longer time, and no more.
    """

    def __init__(self) -> None:
        self._hearing: Hearing | None = None

    def follow(self, hearing: Hearing) -> None:
        """Look at leisure from now on, whenever ``hearing`` says that wake-ups arrive."""
        self._hearing = hearing

    def between_looks(self, seconds: float) -> float:
        """Give how long may pass at this moment, where the settings say so many seconds."""
        return seconds * SELDOM if self._hearing is not None and self._hearing.hears else seconds
