"""Making ids: one number that counts upwards, bounded by the mark of its worker number."""

from __future__ import annotations

import threading
from collections.abc import Callable

from txpatterns.errors import ConfigurationError, IdsUnavailable
from txpatterns.ids.layout import (
    EPOCH_MILLISECONDS,
    SEQUENCE,
    TICKS,
    TIME_SHIFT,
    IdParts,
    first_tick,
    id_of,
    ids_of,
    tick_of,
)
from txpatterns.ids.marks import WINDOW, Grant
from txpatterns.ids.workers import WorkerNumbers
from txpatterns.runtime.forks import forget_after_fork

MOST_AT_ONCE = WINDOW // 2 // (WINDOW.resolution * 1000) * TICKS
"""What ``take`` gives at most: more could never be there."""

_NEXT_MILLISECOND = (1 << TIME_SHIFT) - TICKS
"""What there is between the id behind the last one of a millisecond and the first one of the next."""

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
            made = (self._now() // 1_000_000 << TIME_SHIFT) + self._offset
            if made <= self._last:
                made = self._last + 1
                if not made & SEQUENCE:  # the millisecond is full
                    made += _NEXT_MILLISECOND
            if made <= self._limit:
                self._last = made
                return made
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
            # Who has counted far ahead, under the clock of another year, begins where the others are.
            last = self._last >> TIME_SHIFT
            above = max(last, grant.above) if last < grant.mark else grant.above
            self._worker = grant.worker
            self._offset = IdParts(0, grant.worker, 0).id - (EPOCH_MILLISECONDS << TIME_SHIFT)
            self._last, self._limit = self._end_of(above), self._end_of(grant.mark)

    def extended(self, worker: int, mark: int) -> None:
        """Go on up to a new mark, if it is that of the number in use. Called by `WorkerNumbers`."""
        with self._lock:
            if self._limit != _NONE and self._worker == worker:
                self._limit = max(self._limit, self._end_of(mark))

    def lost(self) -> None:
        """Make no more ids under this worker number. Called by `WorkerNumbers`."""
        with self._lock:
            self._limit = _NONE

    def after_fork(self) -> None:
        """Forget the parent's worker number, and a lock that one of its threads may hold."""
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._worker = self._offset = 0
        self._limit = _NONE

    def _end_of(self, millisecond: int) -> int:
        return IdParts(millisecond, self._worker, SEQUENCE).id

    def _drawn(self, count: int) -> list[int] | None:
        with self._lock:
            now = self._now() // 1_000_000 - EPOCH_MILLISECONDS
            first = max(tick_of(self._last) + 1, first_tick(now))
            last = id_of(self._worker, first + count - 1)
            if last > self._limit:
                return None
            self._last, worker = last, self._worker
        return ids_of(worker, first, count)

    def _at_first(self, count: int) -> list[int]:
        """Take a worker number, if nobody has seen to that yet, and try once more."""
        made = self._drawn(count) if self._workers.upkeep.begin() else None
        if made is None:
            raise IdsUnavailable(self._workers.reason)
        return made
