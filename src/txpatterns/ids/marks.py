"""The rules of marks, without a database or a clock: up to where a worker may count, and above what it begins.

Whoever holds a worker number makes ids of milliseconds above the mark that was there when it took the number, and up to
the mark that it has been given. A mark never falls. So of two holders, one after the other, no two ids are the same,
whatever their clocks did, and however long one of them stood still.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from txpatterns.errors import ClockWrong, IdsUnavailable
from txpatterns.ids.layout import LAST_MILLISECOND, millisecond_of

EVERY = timedelta(seconds=1)
"""Between two renewals."""

WINDOW = timedelta(seconds=3)
"""How far a mark is ahead of the store's clock: so long are there ids while the store is away."""

LEASE = timedelta(seconds=15)
"""After so long without a renewal, others may take a number. They begin above its mark, so nothing depends on it."""

MOST_OFF = timedelta(seconds=1)
"""By how much a machine's clock may differ from that of the store."""

_WINDOW = WINDOW // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to make ids under a worker number, of the milliseconds above one and up to another."""

    worker: int
    above: int
    mark: int


def granted(worker: int, before: int, now: int) -> Grant:
    """Say what who takes a number gets, whose mark is ``before``, at the millisecond ``now`` of the store's clock."""
    return Grant(worker, max(before, now - 1), ending(max(before, now) + _WINDOW))


def renewed(mark: int, now: int) -> int:
    """Give the mark after a renewal."""
    return max(mark, ending(now + _WINDOW))


def is_ahead(mark: int, now: int) -> bool:
    """Whether the store's clock was once so far ahead that this mark will not rise for a while: take another number."""
    return mark > now + 2 * _WINDOW


def agreed(before: datetime, told: datetime, after: datetime) -> int:
    """Give the millisecond of the store's clock, which was asked between two looks at our own.

    Raises:
        ClockWrong: the two differ by more than a second, or are before the first millisecond of all ids.
    """
    off = max(before - told, told - after)
    if off > MOST_OFF:
        raise ClockWrong(f"The clock of this machine is {off.total_seconds():.1f} s off that of the store.")
    now = millisecond_of(told)
    if now < 0:
        raise ClockWrong(f"The clock of the store says {told:%Y-%m-%d}, which is before the first of all ids.")
    return now


def ending(mark: int) -> int:
    """Give a mark back. Raises IdsUnavailable behind the last millisecond."""
    if mark > LAST_MILLISECOND:
        raise IdsUnavailable("The milliseconds of ids are used up: the last one is in September 2094.")
    return mark
