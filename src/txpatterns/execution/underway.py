"""What runs now, for how long, and where it stands: for the log and for ``health()``."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from types import FrameType
from typing import Any

from txpatterns.causes import place_among
from txpatterns.clock import Clock
from txpatterns.execution.run import Run
from txpatterns.text import one_line

logger = logging.getLogger("txpatterns")

LONG = timedelta(minutes=1)
"""From when on code that runs is named."""
_LOOK = timedelta(seconds=5)


@dataclass(slots=True, eq=False)
class Running:
    """One piece of code that runs now."""

    run: Run
    since: float
    thread: int | None = None
    awaits: Any = None
    told: bool = False
    blamed: bool = False

    def place(self) -> str:
        """Say where in the user's code it stands; empty where nobody knows."""
        return place_among(_frames_in(self.thread) if self.thread else _frames_of(self.awaits))


class Underway:
    """Who runs now. Entered and left in any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: set[Running] = set()

    @contextmanager
    def in_loop(self, run: Run) -> Iterator[Running]:
        """Count code in that runs in the event loop."""
        with self._counted(Running(run, self._clock.monotonic())) as running:
            yield running

    @contextmanager
    def in_thread(self, run: Run) -> Iterator[Running]:
        """Count code in that runs in this thread."""
        with self._counted(Running(run, self._clock.monotonic(), threading.get_ident())) as running:
            yield running

    @contextmanager
    def _counted(self, running: Running) -> Iterator[Running]:
        self._running.add(running)
        try:
            yield running
        finally:
            self._running.discard(running)

    def is_over_limit(self, running: Running) -> bool:
        """Whether this code has been running for longer than it may."""
        return running.run.limit is not None and self._age(running) >= running.run.limit

    def over_limit_since(self, many: int) -> float:
        """Since when so many pieces of code run for longer than they may, by the monotonic clock; infinity if fewer."""
        running = [one for one in tuple(self._running) if self.is_over_limit(one)]
        ends = sorted(one.since + one.run.limit.total_seconds() for one in running if one.run.limit is not None)
        return ends[many - 1] if len(ends) >= many else inf

    def long(self) -> list[str]:
        """Say in words what has been running for more than a minute."""
        return [self._told(running) for running in self._longest()]

    async def watch(self, stopping: asyncio.Event) -> None:
        """Write into the log what runs for long, each once, and again when it is over its limit, until told to stop."""
        while not await self._clock.wait(stopping, _LOOK):
            self.tell()

    def tell(self) -> None:
        """Write into the log what has been running for long and was not told yet."""
        for running in self._longest():
            place = running.place()
            where = f", now at {one_line(place)}" if place else ""
            if not running.told:
                running.told = True
                logger.warning("%s%s", self._told(running), where)
            limit = running.run.limit
            if not running.blamed and limit is not None and self._age(running) > limit + _LOOK:
                running.blamed = True
                logger.error(
                    "%s%s: it is beyond its limit of %s and cannot be interrupted. It keeps its place and what "
                    "it holds up until it ends, or this process does",
                    self._told(running),
                    where,
                    limit,
                )

    def _longest(self) -> Sequence[Running]:
        found = [running for running in tuple(self._running) if self._age(running) > LONG]
        return sorted(found, key=lambda running: running.since)

    def _age(self, running: Running) -> timedelta:
        return timedelta(seconds=self._clock.monotonic() - running.since)

    def _told(self, running: Running) -> str:
        origin, age = running.run.origin, round(self._age(running).total_seconds())
        return f"{one_line(origin.name)} has been running for {age} s at {origin.subject}"


def _frames_in(thread: int) -> list[FrameType]:
    frame, found = sys._current_frames().get(thread), list[FrameType]()  # noqa: SLF001 - documented, in spite of its name
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def _frames_of(awaitable: Any) -> list[FrameType]:
    """Give the frames of a suspended coroutine and of what it awaits, the innermost last."""
    found: list[FrameType] = []
    while awaitable is not None and len(found) < 100:
        frame = getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)
        if frame is not None:
            found.append(frame)
        awaitable = getattr(awaitable, "cr_await", None) or getattr(awaitable, "gi_yieldfrom", None)
    return found
