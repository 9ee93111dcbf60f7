"""The clock of explored processes: idle waits pass quickly, and long ones are jumped over."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from mmap import mmap

_SPEED = 20.0
_LOOK = 0.05
"""Seconds of real time after which a waiting task looks whether the process is idle."""
_LIVES = 4
_PART = struct.Struct("d")


class CommonTime:
    """How far the processes of a case have moved its clock ahead, in memory that they share.

    Each life adds to a part of its own, so that none needs a lock and the sum never goes back.
    """

    def __init__(self) -> None:
        self._parts = mmap(-1, _LIVES * _PART.size)

    @property
    def ahead(self) -> timedelta:
        """The sum of all jumps."""
        return timedelta(seconds=sum(part for (part,) in _PART.iter_unpack(self._parts[:])))

    def add(self, life: int, by: timedelta) -> None:
        """Move the clock ahead for all; only the process of this life may call it."""
        place = (life % _LIVES) * _PART.size
        (before,) = _PART.unpack_from(self._parts, place)
        _PART.pack_into(self._parts, place, before + by.total_seconds())


class HurriedClock:
    """Waits take a twentieth of their time while the process is idle; ``jump`` moves ahead all clocks of the case.

    Those are the clocks of all its processes and of the database, so that no due time lies ahead for one of them only.

    ``work`` gives something that changes whenever the process does anything. At work, time passes as it does: what is
    done at intervals, such as renewing a lease, comes about as seldom on a slow machine as on a quick one.
    """

    def __init__(self, common: CommonTime, life: int, work: Callable[[], object]) -> None:
        self._common = common
        self._life = life
        self._work = work
        self._skipped = 0.0

    @property
    def offset(self) -> timedelta:
        """How far the time of the case is ahead of the real one."""
        return self._common.ahead

    def now(self) -> datetime:
        """The present instant of this process."""
        return datetime.now(UTC) + self.offset

    def monotonic(self) -> float:
        """Seconds, which pass twenty times as fast as the real ones while the process waits and is idle."""
        return time.monotonic() + self._skipped + self.offset.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Move ahead, with all who wait."""
        self._common.add(self._life, by)

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
