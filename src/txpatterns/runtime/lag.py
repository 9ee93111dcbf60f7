"""Notices when something blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

logger = logging.getLogger("txpatterns.runtime")

_EVERY = 0.25
_SCHEDULER = Path("/proc/thread-self/schedstat")


def waited_for_processor() -> float | None:
    """Give how long this thread was ready to run and got no processor, in seconds; none where nobody counts it."""
    try:
        return int(_SCHEDULER.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, list[LagWatch]] = WeakKeyDictionary()
"""The watches that run, by their loop: the first of each measures."""


class LagWatch:
    """Warns when the event loop did not turn for longer than ``limit``, and says whose fault it was.

    Of several in one loop only the first measures, until it is stopped: one block is told once.

    A busy machine and a handler that waits without ``await`` make the loop equally late; the time for which its
    thread was ready to run and got no processor tells them apart. Leases are renewed on this loop. One that is in
    doubt is not written under, so a block loses nothing; but other processes take the work over, and messages are
    published again.
    """

    def __init__(
        self,
        limit: timedelta = timedelta(seconds=1),
        *,
        name: str = "this process",
        monotonic: Callable[[], float] = time.monotonic,
        waited: Callable[[], float | None] = waited_for_processor,
    ) -> None:
        self._limit = limit.total_seconds()
        self._name = name
        self._monotonic = monotonic
        self._waited = waited
        self._waited_before: float | None = None
        self._stopping = False
        self._changed = asyncio.Event()
        self.longest = timedelta(0)
        """The longest block so far."""

    async def run(self) -> None:
        """Watch until ``stop`` is called."""
        self._stopping = False
        watches = _watches.setdefault(asyncio.get_running_loop(), [])
        watches.append(self)
        try:
            while not self._stopping:
                self._changed.clear()
                await (self._measure() if watches[0] is self else self._changed.wait())
        finally:
            watches.remove(self)
            if watches:
                watches[0]._changed.set()  # noqa: SLF001 - it may be this one's turn

    async def _measure(self) -> None:
        before, self._waited_before = self._monotonic(), self._waited()
        try:
            async with asyncio.timeout(_EVERY):
                await self._changed.wait()
        except TimeoutError:
            self.note(self._monotonic() - before - _EVERY)

    def note(self, late: float) -> None:
        """Take down that the loop came so many seconds late."""
        self.longest = max(self.longest, timedelta(seconds=late))
        if late > self._limit:
            logger.warning("the event loop of %s was blocked for %.1f s: %s", self._name, late, self._cause(late))

    def _cause(self, late: float) -> str:
        now, before = self._waited(), self._waited_before
        if now is None or before is None:
            return (
                "the machine is busy, or something in an `async def` waits without `await` (written as a `def` "
                "handler it runs in a thread)"
            )
        if now - before > late / 2:
            return (
                f"the machine is busy, and for {now - before:.1f} s there was no processor for it; give it more, or "
                "run fewer processes here"
            )
        return (
            "something in an `async def` waits or computes without `await` (write it as a `def` handler, which runs in "
            "a thread), or the process was stopped"
        )

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._changed.set()
