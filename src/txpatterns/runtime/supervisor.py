"""Background parts that are held, restarted when they die, and judged by their progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from txpatterns.clock import Clock, SystemClock
from txpatterns.runtime.part import Part

logger = logging.getLogger("txpatterns.runtime")

_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class PartHealth:
    """How one background part is. ``quiet_for`` is the time since it last said that it got on or had nothing to do."""

    name: str
    running: bool
    restarts: int
    quiet_for: timedelta
    error: str | None
    attention: tuple[str, ...] = ()
    """What a person should look at, in words: a handler that does not end, a topic that cannot be read."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is: alive while its parts run, ready while each of them makes progress."""

    parts: tuple[PartHealth, ...]
    patience: timedelta
    postponed: Mapping[str, str] = field(default_factory=dict)
    """Topics that take no messages now, each with the reason. Others flow: the process is alive and ready."""

    @property
    def alive(self) -> bool:
        """Whether every part runs or is about to be restarted; restarting the process helps when not."""
        return all(part.running for part in self.parts)

    @property
    def ready(self) -> bool:
        """Whether every part has made progress within ``patience``; false too while the database is away."""
        return self.alive and all(part.quiet_for <= self.patience for part in self.parts)


@dataclass(slots=True, eq=False)
class _Kept:
    part: Part
    heard: Callable[[], float]
    began: float
    task: asyncio.Task[None] = field(init=False)
    restarts: int = 0
    error: str | None = None


class Supervisor:
    """Holds background parts and starts them again when they die, with growing pauses.

    A part is never lost silently: its task is held here, its end is logged, and ``health`` tells its age.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._random = Random()
        self._parts: list[_Kept] = []
        self._stopping = asyncio.Event()

    def start(self, part: Part) -> None:
        """Start a part, which goes on until it is stopped."""
        kept = _Kept(part, part.heard or self.clock.monotonic, self.clock.monotonic())
        self._parts.append(kept)
        kept.task = asyncio.create_task(self._keep(kept), name=f"txpatterns {part.name}")

    def health(self, patience: timedelta = timedelta(minutes=1)) -> Health:
        """Say how the parts are, without asking anybody: no I/O."""
        now = self.clock.monotonic()
        parts = [
            PartHealth(
                kept.part.name,
                not kept.task.done(),
                kept.restarts,
                timedelta(seconds=max(0.0, now - max(kept.heard(), kept.began))),
                kept.error,
                tuple(kept.part.attention()),
            )
            for kept in self._parts
        ]
        postponed = {topic: why for kept in self._parts for topic, why in kept.part.postponed().items()}
        return Health(tuple(parts), patience, postponed)

    async def stop(self, deadline: timedelta) -> bool:
        """Ask the parts to finish what is under way, the last one started first, each after the one before.

        What has not ended at the deadline is cancelled, which loses nothing: it is done again after the next
        start. Says whether all ended by themselves.
        """
        self._stopping.set()
        until = self.clock.monotonic() + deadline.total_seconds()
        late: list[str] = []
        try:
            for kept in reversed(self._parts):
                kept.part.stop()
                await asyncio.wait([kept.task], timeout=max(until - self.clock.monotonic(), 0))
                if not kept.task.done():
                    late.append(kept.part.name)
                    kept.task.cancel()
                    await asyncio.wait([kept.task])
        finally:
            # Cancelled while it waited: no part goes on behind the caller's back.
            left = [kept.task for kept in self._parts if not kept.task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        if late:
            logger.warning("not finished after %s and cancelled: %s", deadline, ", ".join(late))
        return not late

    async def _keep(self, kept: _Kept) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = self.clock.monotonic()
            try:
                await kept.part.run()
                if self._stopping.is_set():
                    return
                kept.error = "it ended without being asked to"
                logger.error("the %s ended without being asked to, and is started again", kept.part.name)
            except Exception as error:
                kept.error = f"{type(error).__name__}: {error}"
                if self._stopping.is_set():
                    logger.exception("the %s failed while it stopped", kept.part.name)
                    return
                logger.exception("the %s died, and is started again", kept.part.name)
            kept.restarts += 1
            failures = 0 if self.clock.monotonic() - began > _LONGEST_PAUSE else failures + 1
            pause = min(0.1 * 2 ** min(failures, 10), _LONGEST_PAUSE) * (0.5 + self._random.random() / 2)
            await self.clock.wait(self._stopping, timedelta(seconds=pause))
