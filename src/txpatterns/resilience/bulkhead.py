"""A bulkhead: so many calls at the same time, so that a slow answer does not take every thread and connection."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType

from txpatterns.checks import check_at_least
from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import BulkheadFull, ConfigurationError
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.guards import Guard, Passage
from txpatterns.resilience.moments import BulkheadWasFull


class Bulkhead(Guard["Place"]):
    """Stands in front of calls to somebody else: ``async with bulkhead:``, ``with bulkhead:``, or ``@bulkhead``.

    At most ``at_once`` of them run at the same moment, in all threads and event loops of the process. Who comes when
    they do waits for at most ``wait``, in the order of coming, and raises ``BulkheadFull`` if none has ended by then:
    the call was not made. Without ``wait`` nobody waits. A place that was given to somebody who has gone meanwhile is
    passed on. In a thread the wait is of real time; an event loop must not be made to wait, so there it is
    ``async with``.

    Raises:
        ConfigurationError: ``at_once`` is less than one, or ``wait`` less than nothing; or ``with`` would make an event
            loop wait.
    """

    def __init__(
        self,
        name: str,
        *,
        at_once: int,
        wait: timedelta = timedelta(0),
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self.name = name
        self.at_once = at_once
        self.wait = wait
        check_at_least(1, self, "at_once")
        check_at_least(timedelta(0), self, "wait")
        self.hooks = HookList.of(hooks)
        self.running = 0
        """How many calls run now."""
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._queue: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """How many wait now for a place."""
        return len(self._queue)

    def passing(self) -> Place:
        """Give what to enter for one call, where ``with bulkhead:`` cannot be left where it was entered."""
        return Place(self)

    def take(self) -> None:
        """Take a place, in a thread that may wait. Raises BulkheadFull."""
        if self._takes_at_once():
            return
        if _in_event_loop():
            raise ConfigurationError(f"{self!r} would make the event loop wait.", fix="Write: async with bulkhead: ...")
        is_free = threading.Event()
        waiting = self._queue_up(is_free.set)
        if waiting is None:
            return
        try:
            is_free.wait(self.wait.total_seconds())
        except BaseException:
            self._go(waiting)
            raise
        self._have(waiting)

    async def take_in_turn(self) -> None:
        """Take a place, in an event loop. Raises BulkheadFull."""
        if self._takes_at_once():
            return
        is_free, loop = asyncio.Event(), asyncio.get_running_loop()
        waiting = self._queue_up(lambda: loop.call_soon_threadsafe(is_free.set))
        if waiting is None:
            return
        try:
            await self._clock.wait(is_free, self.wait)
        except BaseException:
            self._go(waiting)
            raise
        self._have(waiting)

    def release(self) -> None:
        """Give a place back: to the next one who waits for it."""
        with self._lock:
            while self._queue:
                if self._queue.popleft().is_given():
                    return
            self.running -= 1

    def _takes_at_once(self) -> bool:
        """Take a place that is free; says whether there was one. Raises BulkheadFull where nobody waits."""
        with self._lock:
            if self.running < self.at_once:
                self.running += 1
                return True
        if self.wait > timedelta(0):
            return False
        raise self._full()

    def _queue_up(self, wake: Callable[[], object]) -> _Waiting | None:
        """Wait behind the others; None: a place has become free meanwhile, and is taken."""
        with self._lock:
            if self.running < self.at_once:
                self.running += 1
                return None
            waiting = _Waiting(wake)
            self._queue.append(waiting)
            return waiting

    def _have(self, waiting: _Waiting) -> None:
        """Have the place that was waited for. Raises BulkheadFull where there is none."""
        with self._lock:
            if waiting.has_place:
                return
            self._queue.remove(waiting)
        raise self._full()

    def _go(self, waiting: _Waiting) -> None:
        """Leave the queue; a place that was given just now goes to the next."""
        with self._lock:
            if waiting.has_place:
                self.release()
            elif waiting in self._queue:  # not one whose event loop was closed
                self._queue.remove(waiting)

    def _full(self) -> BulkheadFull:
        self.hooks.tell(BulkheadWasFull(self.name))
        return BulkheadFull(self.name, self.at_once)

    def __repr__(self) -> str:
        return f"Bulkhead({self.name!r}, at_once={self.at_once})"


class Place(Passage):
    """One call behind a bulkhead."""

    __slots__ = ("_bulkhead",)

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead

    def __enter__(self) -> None:
        self._bulkhead.take()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bulkhead.release()

    async def __aenter__(self) -> None:
        await self._bulkhead.take_in_turn()


class _Waiting:
    """Somebody who waits for a place."""

    __slots__ = ("_wake", "has_place")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self.has_place = False

    def is_given(self) -> bool:
        """Give them a place; says whether they can still be told."""
        try:
            self._wake()
        except RuntimeError:  # their event loop is closed
            return False
        self.has_place = True
        return True


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
