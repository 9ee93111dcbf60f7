"""Background parts that are held, restarted when they die, and judged by their progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from txpatterns.clock import Clock, SystemClock

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
class _Part:
    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None]
    heard: Callable[[], float]
    began: float
    attention: Callable[[], Sequence[str]]
    task: asyncio.Task[None] | None = None
    restarts: int = 0
    error: str | None = None


class Supervisor:
    """Holds background parts and starts them again when they die, with growing pauses.

    A part is never lost silently: its task is held here, its end is logged, and ``health`` tells its age.
    """

    def __init__(self, *, clock: Clock | None = None, random: Random | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._random = random or Random()
        self._parts: list[_Part] = []
        self._stopping = asyncio.Event()

    def start(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        stop: Callable[[], None],
        heard: Callable[[], float] | None = None,
        attention: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Start a part: ``run`` goes on until ``stop`` is called. ``heard`` gives when it last made progress.

        Without ``heard`` a part counts as getting on for as long as it runs. ``attention`` says in words what a
        person should look at, for ``health``.
        """
        part = _Part(name, run, stop, heard or self.clock.monotonic, self.clock.monotonic(), attention)
        self._parts.append(part)
        part.task = asyncio.create_task(self._keep(part), name=f"txpatterns {name}")

    def health(self, patience: timedelta = timedelta(minutes=1)) -> Health:
        """Say how the parts are, without asking anybody: no I/O."""
        now = self.clock.monotonic()
        parts = [
            PartHealth(
                part.name,
                part.task is not None and not part.task.done(),
                part.restarts,
                timedelta(seconds=max(0.0, now - max(part.heard(), part.began))),
                part.error,
                tuple(part.attention()),
            )
            for part in self._parts
        ]
        return Health(tuple(parts), patience)

    async def stop(self, deadline: timedelta) -> bool:
        """Ask the parts to finish what is under way, the last one started first, each after the one before.

        What has not ended at the deadline is cancelled, which loses nothing: it is done again after the next
        start. Says whether all ended by themselves.
        """
        self._stopping.set()
        until = self.clock.monotonic() + deadline.total_seconds()
        late: list[str] = []
        try:
            for part in reversed(self._parts):
                part.stop()
                if part.task is None:
                    continue
                await asyncio.wait([part.task], timeout=max(until - self.clock.monotonic(), 0))
                if not part.task.done():
                    late.append(part.name)
                    part.task.cancel()
                    await asyncio.wait([part.task])
        finally:
            # Cancelled while it waited: no part goes on behind the caller's back.
            left = [part.task for part in self._parts if part.task is not None and not part.task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        if late:
            logger.warning("not finished after %s and cancelled: %s", deadline, ", ".join(late))
        return not late

    async def _keep(self, part: _Part) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = self.clock.monotonic()
            try:
                await part.run()
                if self._stopping.is_set():
                    return
                part.error = "it ended without being asked to"
                logger.error("the %s ended without being asked to, and is started again", part.name)
            except Exception as error:
                part.error = f"{type(error).__name__}: {error}"
                if self._stopping.is_set():
                    logger.exception("the %s failed while it stopped", part.name)
                    return
                logger.exception("the %s died, and is started again", part.name)
            part.restarts += 1
            failures = 0 if self.clock.monotonic() - began > _LONGEST_PAUSE else failures + 1
            pause = min(0.1 * 2 ** min(failures, 10), _LONGEST_PAUSE) * (0.5 + self._random.random() / 2)
            await self.clock.wait(self._stopping, timedelta(seconds=pause))
