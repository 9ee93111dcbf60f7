"""Where a cache keeps what it knows, each value with its version and the version below which nothing is good enough."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from txpatterns.checks import check_at_least
from txpatterns.clock import Clock, SystemClock
from txpatterns.resilience.questions import Known, Question


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known under a key."""

    data: bytes | None = None
    version: int = 0
    floor: int = 0
    """The version that was written last, as far as anybody has told."""

    def with_floor(self, floor: int) -> Entry:
        """Know that this version was written: what is older is not good any more."""
        if self.data is None or self.version < floor:
            return Entry(floor=max(floor, self.floor))
        return self if floor <= self.floor else replace(self, floor=floor)

    def takes(self, version: int) -> bool:
        """Whether a value of this version may take the place of what is here."""
        return version >= self.floor and (self.data is None or version >= self.version)


NOTHING = Entry()


class Entries(Protocol):
    """Where entries are kept."""

    def reading(self, key: str) -> Question[Entry]:
        """Give what is known under a key."""

    def putting(self, key: str, data: bytes, version: int, ttl: timedelta) -> Question[None]:
        """Keep a value, unless a newer one is known to be."""

    def writing(self, key: str, floor: int, ttl: timedelta) -> Question[None]:
        """Keep that a version was written."""

    def dropping(self, key: str) -> Question[None]:
        """Forget the value under a key."""


class MemoryEntries:
    """Entries of this process: at most so many, and those that were not asked for the longest go first."""

    def __init__(self, *, most: int = 10_000, clock: Clock | None = None) -> None:
        self.most = most
        check_at_least(1, self, "most")
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Entry]] = OrderedDict()

    def reading(self, key: str) -> Question[Entry]:
        """Give what is known under a key."""
        with self._lock:
            return Known(self._read(key))

    def putting(self, key: str, data: bytes, version: int, ttl: timedelta) -> Question[None]:
        """Keep a value, unless a newer one is known to be."""
        with self._lock:
            known = self._read(key)
            if known.takes(version):
                self._keep(key, Entry(data, version, known.floor), ttl)
        return Known(None)

    def writing(self, key: str, floor: int, ttl: timedelta) -> Question[None]:
        """Keep that a version was written."""
        with self._lock:
            self._keep(key, self._read(key).with_floor(floor), ttl)
        return Known(None)

    def dropping(self, key: str) -> Question[None]:
        """Forget the value under a key."""
        with self._lock:
            ends, known = self._kept.get(key, (0.0, NOTHING))
            if known.data is not None:
                self._kept[key] = (ends, Entry(floor=known.floor))
        return Known(None)

    def _read(self, key: str) -> Entry:
        ends, known = self._kept.get(key, (0.0, NOTHING))
        if known is NOTHING:
            return NOTHING
        if ends <= self._clock.monotonic():
            del self._kept[key]
            return NOTHING
        self._kept.move_to_end(key)
        return known

    def _keep(self, key: str, entry: Entry, ttl: timedelta) -> None:
        self._kept[key] = (self._clock.monotonic() + ttl.total_seconds(), entry)
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
