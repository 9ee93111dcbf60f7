"""Work that is done from time to time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from txpatterns.clock import Clock


class Every:
    """Work that is done again and again, with a time between."""

    def __init__(self, clock: Clock, time: timedelta, work: Callable[[], Awaitable[object]]) -> None:
        self._clock = clock
        self._seconds = time.total_seconds()
        self._work = work
        self._done_at = clock.monotonic()

    async def when_due(self) -> None:
        """Do it, if the time has passed since it was done last."""
        if self._clock.monotonic() - self._done_at > self._seconds:
            await self._work()
            self._done_at = self._clock.monotonic()
