"""The clock of explored processes: it stands still while anything is done, and goes on when everybody waits."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from mmap import mmap

from txpatterns.testing.explorer.points import Points

_POINT = 0.001
"""Seconds that each point takes, so that time passes even for who never waits."""
_QUIET = 0.005
"""Seconds of real time without anything done after which a process counts as idle."""
_STUCK = 1.0
"""The same while a call is under way: it may wait for one whose clock would have to go on."""
_LIVES = 4
_PART = struct.Struct("d")


class CommonTime:
    """How far the processes of a case have moved its clock ahead, in memory that they share.

    Each life has a part of its own, so that none needs a lock and the sum never goes back.
    """

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._parts = mmap(-1, _LIVES * _PART.size)

    @property
    def seconds(self) -> float:
        """The sum of what all lives have added."""
        return float(sum(part for (part,) in _PART.iter_unpack(self._parts[:])))

    @property
    def now(self) -> datetime:
        """The instant that it is in this case."""
        return self._start + timedelta(seconds=self.seconds)

    def put(self, life: int, seconds: float) -> None:
        """Say what a life has added so far; only its own process may call it."""
        _PART.pack_into(self._parts, (life % _LIVES) * _PART.size, seconds)


class HurriedClock:
    """Time that does not depend on the machine: a wait takes no longer than the process is at work meanwhile.

    Each point takes a millisecond. When nothing is done and nothing is under way, the clock goes on to the first
    deadline of those who wait, and ``jump`` moves it further. It is the clock of all processes of the case and of
    the database, so that no due time lies ahead for one of them only.
    """

    instant = None

    def __init__(self, common: CommonTime, life: int, points: Points) -> None:
        self._common = common
        self._life = life
        self._points = points
        self._skipped = 0.0
        self._deadlines: list[float] = []

    @property
    def offset(self) -> timedelta:
        """How far the time of the case is ahead of the real one, which runs on."""
        return self.now() - datetime.now(UTC)

    def now(self) -> datetime:
        """The present instant of the case."""
        self._tell()
        return self._common.now

    def monotonic(self) -> float:
        """Seconds since the case began."""
        self._tell()
        return self._common.seconds

    def jump(self, by: timedelta) -> None:
        """Move ahead, with all who wait."""
        self._skip(by.total_seconds())

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set, or until the time-out has passed on this clock."""
        with self._waiting(self.monotonic() + max(timeout.total_seconds(), _POINT)) as due:
            seen, since = self._done, time.monotonic()
            while not event.is_set():
                if self.monotonic() >= due:
                    return False
                try:
                    async with asyncio.timeout(_QUIET):
                        await event.wait()
                except TimeoutError:
                    if self._done != seen:
                        seen, since = self._done, time.monotonic()
                    elif time.monotonic() - since >= (_STUCK if self._points.under_way else _QUIET):
                        self._skip(max(min(self._deadlines) - self.monotonic(), 0.0))
            return True

    @property
    def _done(self) -> tuple[int, float]:
        """What differs when anything was done, or time has gone on, since the last look."""
        return len(self._points.passed), self._skipped

    @contextmanager
    def _waiting(self, due: float) -> Iterator[float]:
        self._deadlines.append(due)
        try:
            yield due
        finally:
            self._deadlines.remove(due)

    def _skip(self, seconds: float) -> None:
        self._skipped += seconds + _POINT  # databases count in milliseconds: what is due must be so for them too
        self._tell()

    def _tell(self) -> None:
        self._common.put(self._life, self._skipped + len(self._points.passed) * _POINT)
