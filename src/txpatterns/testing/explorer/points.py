"""The I/O points of one process: counted when nothing is injected, and struck by a fault when one is.

A point is a named call to the outside: a statement, a COMMIT, a publication, an acknowledgement. It is known by its
name and by how often that name has come up, which stays the same from run to run although tasks may take turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from mmap import mmap
from pathlib import Path


class Mode(StrEnum):
    """What happens at a point."""

    KILL_BEFORE = "kill-before"
    """The process is killed by SIGKILL, and the call is not made."""
    KILL_AFTER = "kill-after"
    """The call has its effect, and the process is killed by SIGKILL."""
    ERROR_BEFORE = "error-before"
    """The call fails without an effect: the connection is gone."""
    REPLY_LOST = "reply-lost"
    """The call has its effect, but ends with an error: the answer did not come."""
    CANCEL = "cancel"
    """The task that runs the flow is cancelled while the call is under way."""
    PAUSE = "pause"
    """The process is stopped, another one takes over, and then it goes on with the call."""


KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER)


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One call: its name, and which of the calls of that name it is, counted from 1."""

    name: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.name}#{self.occurrence}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read what ``str`` wrote."""
        name, _, occurrence = text.rpartition("#")
        return cls(name, int(occurrence))


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault at a point."""

    point: Point
    mode: Mode

    def __str__(self) -> str:
        return f"{self.point}/{self.mode}"

    @classmethod
    def parse(cls, text: str) -> Injection:
        """Read what ``str`` wrote."""
        point, _, mode = text.rpartition("/")
        return cls(Point.parse(point), Mode(mode))


class Points:
    """What one process has come to, and the fault that waits for it.

    ``journal`` is the file where the process notes what must outlive it; ``heart`` is memory that it shares with
    whoever watches it, and has the number of points.
    """

    def __init__(self, journal: Path, heart: mmap, injection: Injection | None = None) -> None:
        self.injection = injection
        self.passed: list[Point] = []
        self.flow: asyncio.Task[object] | None = None
        self._journal = journal
        self._heart = heart
        self._counts: Counter[str] = Counter()
        self._calls: set[object] = set()
        self.fired = False

    @property
    def under_way(self) -> bool:
        """Whether a call has been made whose answer is still to come."""
        return bool(self._calls)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Make a call inside: until it ends, the process is not idle."""
        call = object()
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    def arrive(self, name: str) -> Mode | None:
        """Come to a point, before its call; gives a fault that the caller must perform, or None.

        Kills, cancels and pauses are done here. The caller raises its own error for ``ERROR_BEFORE`` at once, and
        for ``REPLY_LOST`` after the call; it hands any answer to ``leave`` after the call.
        """
        self._counts[name] += 1
        here = Point(name, self._counts[name])
        self.passed.append(here)
        self._heart[:] = len(self.passed).to_bytes(len(self._heart))
        if self.fired or self.injection is None or self.injection.point != here:
            return None
        self.fired = True
        self.note({"fired": str(self.injection)})
        match self.injection.mode:
            case Mode.KILL_BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
            case Mode.CANCEL:
                self._cancel()
            case Mode.PAUSE:
                os.kill(os.getpid(), signal.SIGSTOP)
            case _:
                return self.injection.mode
        return None

    def leave(self, fault: Mode | None) -> None:
        """Come out of a point whose call has had its effect."""
        if fault is Mode.KILL_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, record: object) -> None:
        """Write a line that outlives this process."""
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _cancel(self) -> None:
        if self.flow is None:
            return
        loop = self.flow.get_loop()
        try:
            inside = asyncio.get_running_loop() is loop
        except RuntimeError:  # a thread of its own, where a blocking handler runs
            inside = False
        if inside:
            self.flow.cancel()
        else:
            loop.call_soon_threadsafe(self.flow.cancel)
