"""Who loads the same thing at the same time does it once: one leads, in a thread or a task, and the others wait."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from txpatterns.resilience.questions import Question


@dataclass(frozen=True, slots=True)
class Landed:
    """What came of a load."""

    data: bytes = b""
    version: int = 0
    error: Exception | None = None
    is_new: bool = False
    """Whether it was loaded, and is being kept."""


class Flight(Question[Landed | None]):
    """One load that is under way, as those see it who wait for it: None where its leader was stopped."""

    def __init__(self) -> None:
        self._landed: Future[Landed | None] = Future()
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}
        """Who is told in each event loop, once for all who wait there."""
        self._leader = _who_this_is()
        self.is_outdated = False
        """Whether nobody can tell if what it brings is from before a write or behind it."""

    @property
    def can_be_joined(self) -> bool:
        """Whether to wait for it can have an end: nobody waits for themselves."""
        return _who_this_is() != self._leader

    def land(self, landed: Landed | None) -> None:
        """Tell those who wait what came of it."""
        with self._lock:
            self._landed.set_result(landed)
            loops = list(self._loops.items())
        for loop, event in loops:
            with suppress(RuntimeError):  # it is closed, and nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    def plain(self) -> Landed | None:
        if _in_event_loop():
            raise WouldStandStill
        return self._landed.result()

    async def awaited(self) -> Landed | None:
        with self._lock:
            has_landed = self._landed.done()
            event = self._loops.setdefault(asyncio.get_running_loop(), asyncio.Event())
        if not has_landed:
            await event.wait()
        return self._landed.result()


class WouldStandStill(Exception):
    """A thread with an event loop would wait for somebody who may need that loop."""


class Flights:
    """The loads that are under way, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Flight] = {}

    def board(self, key: str) -> tuple[Flight, bool]:
        """Give the flight of a key, and whether this one leads it."""
        with self._lock:
            found = self._by_key.get(key)
            if found is not None:
                return found, False
            self._by_key[key] = flight = Flight()
            return flight, True

    def leave(self, key: str, flight: Flight) -> None:
        """Let nobody board a flight any more."""
        with self._lock:
            if self._by_key.get(key) is flight:
                del self._by_key[key]

    def outdate(self, key: str, *, version_tells: bool) -> None:
        """Something was written: what is under way may bring what was before, and nobody boards it any more."""
        with self._lock:
            found = self._by_key.pop(key, None)
            if found is not None and not version_tells:
                found.is_outdated = True


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _who_this_is() -> tuple[int, int | None]:
    task = asyncio.current_task() if _in_event_loop() else None
    return threading.get_ident(), None if task is None else id(task)
