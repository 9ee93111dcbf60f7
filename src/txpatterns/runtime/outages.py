"""Waiting while a server is away: growing pauses, one log line when it goes and one when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import TypeVar

from txpatterns.clock import Clock
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

T = TypeVar("T")

_SHORTEST, _LONGEST = timedelta(milliseconds=50), timedelta(seconds=3)


class Stopped(Exception):
    """Who waited is stopping, so what could not be done now is left to whoever comes next."""


class Outages:
    """What those share who need one server, while it cannot be reached. ``name`` says in the log who they are."""

    def __init__(self, clock: Clock, name: str, stopping: asyncio.Event) -> None:
        self.stopping = stopping
        self._clock = clock
        self._name = name
        self._random = Random()
        self._failures = 0
        self.since: float | None = None
        """Since when nothing worked, by the monotonic clock; None while it does."""
        self.error: BaseException | None = None

    async def insist(
        self, step: Callable[[], Awaitable[T]], *, while_: Callable[[Exception], bool] = lambda _error: True
    ) -> T:
        """Repeat a step until it raises nothing, or something that is not to be waited for.

        Raises:
            Stopped: who waits stops while the step still fails.
        """
        while True:
            try:
                result = await step()
            except Stopped:
                raise
            except Exception as error:
                if not while_(error):
                    raise
                await self.pause(error)
            else:
                self.fine()
                return result

    async def pause(self, error: BaseException | None) -> None:
        """Wait before the next try. Raises Stopped when who waits stops meanwhile."""
        if self._failures == 0:
            self.since = self._clock.monotonic()
            logger.warning("%s pauses: %s", self._name, error_line(error))
        self.error = error
        self._failures += 1
        # All lanes fail at once, so the failures are counted by the wait that follows them, not one by one.
        wait = min(_LONGEST, _SHORTEST * 2 ** min(self._failures // 16, 10))
        if await self._clock.wait(self.stopping, wait * (0.5 + self._random.random())):
            raise Stopped

    def told(self) -> str | None:
        """Say who waits and for what; None when nobody does."""
        return None if self.since is None else f"{self._name} waits: {type(self.error).__name__}"

    def fine(self) -> None:
        """Something worked."""
        if self._failures:
            self._failures = 0
            self.since = self.error = None
            logger.warning("%s goes on", self._name)
