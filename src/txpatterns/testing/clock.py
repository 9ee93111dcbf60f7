"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count


class ManualClock:
    """Wall time, steady time and waits move by ``advance`` and by nothing else.

    The database's clock stands still with it, so that due times agree. Give it to ``Database`` as ``clock``.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime.now(UTC)
        self._advanced = timedelta(0)
        self._order = count()
        self._waiting: dict[int, tuple[timedelta, asyncio.Future[None]]] = {}

    @property
    def offset(self) -> timedelta:
        """How far this clock is ahead of the real one, which runs on: it shrinks as real time passes."""
        return self.now() - datetime.now(UTC)

    @property
    def instant(self) -> datetime:
        """Where it stands."""
        return self.now()

    def now(self) -> datetime:
        """The instant at which the clock was made, and what it was advanced since."""
        return self._start + self._advanced

    def monotonic(self) -> float:
        """Seconds that the clock was advanced, counted from an arbitrary point."""
        return 1_000.0 + self._advanced.total_seconds()

    @property
    def next_deadline(self) -> timedelta | None:
        """How long until the first of those who wait is woken; None when nobody waits."""
        deadlines = [deadline for deadline, _ in self._waiting.values()]
        return max(min(deadlines) - self._advanced, timedelta(0)) if deadlines else None

    def advance(self, by: timedelta) -> None:
        """Move the clock. Those whose time has come are woken in the order of their deadlines.

        Raises:
            ValueError: the clock would go back.
        """
        if by < timedelta(0):
            raise ValueError("time does not go back")
        self._advanced += by
        due = sorted((at, number) for number, (at, _) in self._waiting.items() if at <= self._advanced)
        for _, number in due:
            _, woken = self._waiting.pop(number)
            if not woken.done():
                woken.set_result(None)

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set or the clock was advanced by the time-out; says whether it was set."""
        if event.is_set():
            return True
        if timeout <= timedelta(0):
            await asyncio.sleep(0)
            return event.is_set()
        number, time_is_up = next(self._order), asyncio.get_running_loop().create_future()
        self._waiting[number] = self._advanced + timeout, time_is_up
        setting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((setting, time_is_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(number, None)
            setting.cancel()
        return event.is_set()
