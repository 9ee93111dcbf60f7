"""Making ids: one number that counts upwards, bounded by the mark of its worker number."""

from __future__ import annotations

import threading
from collections.abc import Callable

from txpatterns.errors import ConfigurationError, IdsUnavailable
from txpatterns.ids.layout import EPOCH_MILLISECONDS, SEQUENCE, SEQUENCE_BITS, TICKS, TIME_SHIFT, ids_of, last_tick
from txpatterns.ids.marks import WINDOW, Grant
from txpatterns.ids.workers import WorkerNumbers
from txpatterns.runtime.forks import forget_after_fork

MOST_AT_ONCE = WINDOW // 2 // (WINDOW.resolution * 1000) * TICKS
"""What ``take`` gives at most: more could never be there."""

_NONE = -1
"""The limit of who has no worker number."""


class SnowflakeGenerator:
    """Makes 64-bit ids that are unique among all who share a store of worker numbers, and grow with time.

    Of one generator, each id is greater than the one before; of several, they are in order to about a millisecond,
    or as far as one has counted ahead of its clock. Whatever clocks do, no id comes twice; what that rests on, and when
    ids do not grow, is told by the explanation "clocks and ids".

    It may be called from any thread, of plain code and in an event loop: no call waits for anything. But the very first
    one in a process takes a worker number, at most five seconds, unless an App that runs has done so before. A forked
    child takes a number of its own.
    """

    def __init__(self, workers: WorkerNumbers) -> None:
        self._workers = workers
        self._now: Callable[[], int] = workers.nanoseconds
        self._last = 0
        self._forget()
        workers.serve(self)
        forget_after_fork(self)

    def next_id(self) -> int:
        """Make an id.

        Raises:
            IdsUnavailable: there is no worker number, or its mark is reached, because the store was away for longer
                than three seconds, the machine's clock is wrong, or more than 4,096 ids a millisecond are made.
        """
        with self._lock:
            tick = (self._now() // 1_000_000 - EPOCH_MILLISECONDS) << SEQUENCE_BITS
            if tick <= self._last:
                tick = self._last + 1
            if tick <= self._limit:
                self._last = tick
                return (tick >> SEQUENCE_BITS) << TIME_SHIFT | self._worker | tick & SEQUENCE
        return self._at_first(1)[0]

    def take(self, count: int) -> list[int]:
        """Make so many ids at once, in order: all of them or none. For bulk inserts; it is many times as fast.

        Raises:
            IdsUnavailable: as ``next_id``.
            ConfigurationError: it is less than one, or more than 6,144,000.
        """
        if not 1 <= count <= MOST_AT_ONCE:
            raise ConfigurationError(
                f"{count!r} ids cannot be taken at once.", fix=f"Take from 1 to {MOST_AT_ONCE:,} at a time."
            )
        made = self._drawn(count)
        return self._at_first(count) if made is None else made

    def prepare(self) -> None:
        """Begin to take a worker number, so that the first id need not wait for it."""
        self._workers.upkeep.begin(wait=False)

    def granted(self, grant: Grant) -> None:
        """Go on under another worker number. Called by `WorkerNumbers`."""
        with self._lock:
            self._worker, self._limit = grant.worker << SEQUENCE_BITS, last_tick(grant.mark)
            last = max(self._last | SEQUENCE, last_tick(grant.above))
            # Who has counted far ahead, under the clock of another year, begins where the others are.
            self._last = last if last < self._limit else last_tick(grant.above)

    def extended(self, mark: int) -> None:
        """Go on up to a new mark. Called by `WorkerNumbers`."""
        with self._lock:
            self._limit = max(self._limit, last_tick(mark))

    def lost(self) -> None:
        """Make no more ids under this worker number. Called by `WorkerNumbers`."""
        with self._lock:
            self._limit = _NONE

    def after_fork(self) -> None:
        """Forget the parent's worker number, and a lock that one of its threads may hold."""
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._worker, self._limit = 0, _NONE

    def _drawn(self, count: int) -> list[int] | None:
        with self._lock:
            tick = (self._now() // 1_000_000 - EPOCH_MILLISECONDS) << SEQUENCE_BITS
            first = max(self._last + 1, tick)
            if first + count - 1 > self._limit:
                return None
            self._last = first + count - 1
            worker = self._worker >> SEQUENCE_BITS
        return ids_of(worker, first, count)

    def _at_first(self, count: int) -> list[int]:
        """Take a worker number, if nobody has seen to that yet, and try once more."""
        made = self._drawn(count) if self._workers.upkeep.begin() else None
        if made is None:
            raise IdsUnavailable(self._workers.reason)
        return made
