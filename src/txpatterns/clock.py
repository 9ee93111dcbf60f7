"""Time, injected: nothing in the library reads a clock or sleeps in any other way."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time, a steady time, and waiting. The test kit's clock can be moved by hand."""

    @property
    def offset(self) -> timedelta:
        """How far this clock is ahead of the real one; added to the database's clock as well."""

    @property
    def instant(self) -> datetime | None:
        """Where it stands, if it moves by hand only: the database's clock stands there, too. None: it runs."""

    def now(self) -> datetime:
        """The present instant, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back, for deadlines inside one process."""

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set or the time-out has passed; says whether it was set."""


class SystemClock:
    """The real clock."""

    offset = timedelta(0)
    instant: datetime | None = None

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await event.wait()
        except TimeoutError:
            return False
        return True
