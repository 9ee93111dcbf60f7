"""The clock of explored processes: short waits pass quickly, and long ones are jumped over."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

_SPEED = 20.0


class HurriedClock:
    """Waits take a twentieth of their time; ``jump`` moves all clocks ahead, the database's included."""

    def __init__(self, offset: timedelta = timedelta(0)) -> None:
        self._offset = offset

    @property
    def offset(self) -> timedelta:
        """How far this process's time is ahead of the real one."""
        return self._offset

    def now(self) -> datetime:
        """The present instant of this process."""
        return datetime.now(UTC) + self._offset

    def monotonic(self) -> float:
        """Seconds that pass twenty times as fast as the real ones."""
        return time.monotonic() * _SPEED + self._offset.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Move ahead; who waits goes on waiting for a twentieth of the rest."""
        self._offset += by

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set, or for a twentieth of the time-out."""
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(timeout.total_seconds() / _SPEED):
                await event.wait()
        except TimeoutError:
            return False
        return True
