"""Notices when something blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta

logger = logging.getLogger("txpatterns.runtime")

_EVERY = 0.25


class LagWatch:
    """Warns when the event loop did not turn for longer than ``limit``.

    Leases are renewed on this loop. One that is in doubt is not written under, so a block loses nothing; but other
    processes take the work over, and messages are published again.
    """

    def __init__(
        self, limit: timedelta = timedelta(seconds=1), *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit.total_seconds()
        self._monotonic = monotonic
        self._stopping = asyncio.Event()
        self.longest = timedelta(0)
        """The longest block so far."""

    async def run(self) -> None:
        """Watch until ``stop`` is called."""
        self._stopping.clear()
        while not self._stopping.is_set():
            before = self._monotonic()
            try:
                async with asyncio.timeout(_EVERY):
                    await self._stopping.wait()
            except TimeoutError:
                self.note(self._monotonic() - before - _EVERY)

    def note(self, late: float) -> None:
        """Take down that the loop came so many seconds late."""
        self.longest = max(self.longest, timedelta(seconds=late))
        if late > self._limit:
            logger.warning(
                "the event loop was blocked for %.1f s: something in an `async def` waits without `await`; "
                "write it as a `def` handler, which runs in a thread",
                late,
            )

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()
