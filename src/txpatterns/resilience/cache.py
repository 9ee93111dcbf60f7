"""A cache beside where things come from: a crowd loads once, and whoever has written reads what was written."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from txpatterns.checks import INSTANT, check_at_least
from txpatterns.errors import ConfigurationError
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.entries import Entries, Entry, MemoryEntries
from txpatterns.resilience.flights import Flight, Flights, Landed, WouldStandStill
from txpatterns.resilience.moments import CacheHit, CacheMissed, LoadShared
from txpatterns.resilience.questions import Flow, Known, Loading, arun, run

V = TypeVar("V")

_MOST_FLOORS = 10_000
_MOST = 2**53
"""Redis's scripts have no larger whole numbers."""


class Cache(Generic[V]):
    """Values by key, as they come from somewhere else: ``await products.aget("A1", load)``.

    What is not known is loaded by ``load``, once for all who want it in this process at the same time: the others wait.
    If whoever loads is cancelled, one of the others does. What ``load`` raises all of them raise, and nothing is kept.

    A value is kept for ``ttl``, and by chance up to ``jitter`` longer, so that what was loaded together is not missed
    together. It is kept as JSON of ``type``, and so each caller has an object of its own.

    ``version`` gives a value's version, a number that grows with each write, such as a row's. ``wrote`` tells which one
    was written: from then on no older value is given to anybody who shares the entries, also where one is being loaded
    just then. ``entries`` are those of this process if left out, or in Redis (`RedisEntries`).

    Raises:
        ConfigurationError: a time that is not more than nothing.
    """

    def __init__(
        self,
        name: str,
        type: type[V] | TypeAdapter[V],
        *,
        version: Callable[[V], int] = lambda _: 0,
        entries: Entries | None = None,
        ttl: timedelta = timedelta(minutes=15),
        jitter: timedelta = timedelta(minutes=5),
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self.name = name
        self.ttl = ttl
        self.jitter = jitter
        check_at_least(INSTANT, self, "ttl")
        check_at_least(timedelta(0), self, "jitter")
        self.hooks = HookList.of(hooks)
        self.random = Random()
        self._form: TypeAdapter[V] = type if isinstance(type, TypeAdapter) else TypeAdapter(type)
        self._version = version
        self._entries = entries or MemoryEntries()
        self._flights = Flights()
        self._lock = threading.Lock()
        self._floors: OrderedDict[str, int] = OrderedDict()
        """What this process has written last, for while the entries are away."""

    def get(self, key: str, load: Callable[[], V], at_least: int = 0) -> V:
        """Give the value of a key, in a thread; an older one than ``at_least`` is loaded anew."""
        return run(self._getting(key, load, at_least))

    async def aget(self, key: str, load: Callable[[], Awaitable[V]], at_least: int = 0) -> V:
        """Do what ``get`` does, in an event loop."""
        return await arun(self._getting(key, load, at_least))

    def wrote(self, key: str, version: int | None = None) -> None:
        """Tell that a version was written, behind its commit; without one, that whatever is known is old."""
        run(self._writing(key, version))

    async def awrote(self, key: str, version: int | None = None) -> None:
        """Do what ``wrote`` does, in an event loop."""
        await arun(self._writing(key, version))

    def _getting(self, key: str, load: Callable[[], Any], at_least: int) -> Flow[V]:
        floor = max(at_least, self._floors.get(key, 0))
        entry = yield from self._known(key, floor)
        if entry.data is None:
            floor = max(floor, entry.floor)
            return self._form.validate_json((yield from self._loading(key, load, floor)))
        try:
            value = self._form.validate_json(entry.data)
        except ValidationError:  # of an older release of the application
            yield self._entries.dropping(self._place(key))
            return self._form.validate_json((yield from self._loading(key, load, floor)))
        self.hooks.tell(CacheHit(self.name))
        return value

    def _known(self, key: str, floor: int) -> Flow[Entry]:
        """Give what is known, without the value if it is too old."""
        entry: Entry = yield self._entries.reading(self._place(key))
        return entry.with_floor(max(floor, entry.floor))

    def _loading(self, key: str, load: Callable[[], Any], floor: int) -> Flow[bytes]:
        """Load, or wait for somebody who does; what they began before a write that must be seen is not enough."""
        has_waited = False
        while True:
            flight, leads = self._flights.board(key)
            if leads:
                return (yield from self._leading(flight, key, load, floor))
            try:
                landed: Landed | None = (yield flight) if flight.can_be_joined else (yield Known(_ALONE))
            except WouldStandStill:
                landed = _ALONE
            if landed is _ALONE:
                return (yield from self._encoded(load))[0]
            if landed is None:
                continue
            if landed.error is not None:
                raise landed.error
            if landed.version >= floor or has_waited:
                self.hooks.tell(LoadShared(self.name))
                return landed.data
            has_waited = True
            self._flights.leave(key, flight)

    def _leading(self, flight: Flight, key: str, load: Callable[[], Any], floor: int) -> Flow[bytes]:
        landed: Landed | None = None
        try:
            # Somebody may have loaded it between the look that missed it and the boarding.
            entry = yield from self._known(key, floor)
            if entry.data is not None:
                landed = Landed(entry.data, entry.version)
                self.hooks.tell(LoadShared(self.name))
                return entry.data
            data, version = yield from self._encoded(load)
            landed = Landed(data, version, is_new=True)
        except Exception as error:
            landed = Landed(error=error)
            raise
        finally:
            if landed is None or not landed.is_new:
                self._flights.leave(key, flight)
            flight.land(landed)
        try:
            if not flight.is_outdated and version >= self._floors.get(key, version):
                ttl = self.ttl + self.jitter * self.random.random()
                yield self._entries.putting(self._place(key), data, version, ttl)
        finally:
            self._flights.leave(key, flight)
        return data

    def _encoded(self, load: Callable[[], Any]) -> Flow[tuple[bytes, int]]:
        self.hooks.tell(CacheMissed(self.name))
        value: V = yield Loading[V](load)
        return self._form.dump_json(value, by_alias=True, round_trip=True), _checked(self._version(value))

    def _writing(self, key: str, version: int | None) -> Flow[None]:
        self._flights.outdate(key, version_tells=version is not None)
        if version is None:
            yield self._entries.dropping(self._place(key))
            return
        _checked(version)
        with self._lock:
            self._floors[key] = max(version, self._floors.pop(key, version))
            while len(self._floors) > _MOST_FLOORS:
                self._floors.popitem(last=False)
        yield self._entries.writing(self._place(key), version, self.ttl + self.jitter)

    def _place(self, key: str) -> str:
        return f"{self.name}:{key}"

    def __repr__(self) -> str:
        return f"Cache({self.name!r})"


def _checked(version: int) -> int:
    given: object = version
    if not isinstance(given, int) or not 0 <= version < _MOST:
        raise ConfigurationError(
            f"{version!r} is no version.", fix="Use a number that grows with each write, from 0, below 2 to the 53."
        )
    return version


_ALONE = Landed()
"""Who cannot wait for the others loads alone."""
