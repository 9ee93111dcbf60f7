"""The clock of explored processes: idle waits pass quickly, and long ones are jumped over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_SPEED = 20.0
_LOOK = 0.05
"""Seconds of real time after which a waiting task looks whether the process is idle."""


class HurriedClock:
    """Waits take a twentieth of their time while the process is idle; ``jump`` moves all clocks ahead, databases too.

    ``work`` gives something that changes whenever the process does anything. At work, time passes as it does: what is
    done at intervals, such as renewing a lease, comes about as seldom on a slow machine as on a quick one.
    """

    def __init__(self, offset: timedelta = timedelta(0), work: Callable[[], object] = lambda: None) -> None:
        self._offset = offset
        self._work = work
        self._skipped = 0.0

    @property
    def offset(self) -> timedelta:
        """How far this process's time is ahead of the real one."""
        return self._offset

    def now(self) -> datetime:
        """The present instant of this process."""
        return datetime.now(UTC) + self._offset

    def monotonic(self) -> float:
        """Seconds, which pass twenty times as fast as the real ones while the process waits and is idle."""
        return time.monotonic() + self._skipped + self._offset.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Move ahead, with all who wait."""
        self._offset += by

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set, or until the time-out has passed on this clock."""
        due = self.monotonic() + timeout.total_seconds()
        while not event.is_set():
            left = due - self.monotonic()
            if left <= 0:
                return False
            turn, skipped, work = min(left / _SPEED, _LOOK), self._skipped, self._work()
            try:
                async with asyncio.timeout(turn):
                    await event.wait()
            except TimeoutError:
                if self._work() == work:
                    self._skipped = max(self._skipped, skipped + turn * (_SPEED - 1))
        return True
