"""How an id is made up: 41 bits of milliseconds, 10 of the worker number, 12 of a sequence: 63, so never negative.

Inside, time and sequence are one number, the *tick*: a millisecond has 4,096 of them. Whoever counts ticks upwards
makes ids that grow, and a millisecond that is full runs over into the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from txpatterns.errors import IdInvalid
from txpatterns.text import one_line

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
"""Where the milliseconds of all ids begin. The last one is in September 2094."""

SEQUENCE_BITS, WORKER_BITS, TIME_BITS = 12, 10, 41
WORKERS = 1 << WORKER_BITS
TICKS = 1 << SEQUENCE_BITS
"""In a millisecond: so many ids a worker can make in each, over time."""

LAST_MILLISECOND = (1 << TIME_BITS) - 1
LAST_ID = (1 << TIME_BITS + WORKER_BITS + SEQUENCE_BITS) - 1

SEQUENCE = TICKS - 1
TIME_SHIFT = WORKER_BITS + SEQUENCE_BITS

EPOCH_MILLISECONDS = int(EPOCH.timestamp()) * 1000
"""Since 1970."""


@dataclass(frozen=True, slots=True)
class IdParts:
    """What an id is made up of."""

    millisecond: int
    """Since ``EPOCH``."""
    worker: int
    sequence: int

    @property
    def id(self) -> int:
        """The id itself."""
        return self.millisecond << TIME_SHIFT | self.worker << SEQUENCE_BITS | self.sequence

    @property
    def at(self) -> datetime:
        """When it was made, by the clock of its worker, or a little later: a worker may count ahead of its clock."""
        return instant_of(self.millisecond)


def checked(id: object) -> int:
    """Give an id back.

    Raises:
        IdInvalid: it is no whole number, negative, or longer than 63 bits.
    """
    if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id <= LAST_ID:
        raise IdInvalid(f"{one_line(repr(id), 40)} is no id.")
    return id


def explain(id: int) -> IdParts:
    """Take an id apart. Raises IdInvalid for what is none."""
    checked(id)
    return IdParts(id >> TIME_SHIFT, id >> SEQUENCE_BITS & WORKERS - 1, id & SEQUENCE)


def millisecond_of(at: datetime) -> int:
    """Give the millisecond of an instant, since ``EPOCH``; below zero for one before it."""
    return (at - EPOCH) // timedelta(milliseconds=1)


def instant_of(millisecond: int) -> datetime:
    """Give the instant of a millisecond."""
    return EPOCH + timedelta(milliseconds=millisecond)


def first_tick(millisecond: int) -> int:
    """Give the first tick of a millisecond."""
    return millisecond << SEQUENCE_BITS


def tick_of(id: int) -> int:
    """Give the tick of an id."""
    return (id >> TIME_SHIFT) << SEQUENCE_BITS | id & SEQUENCE


def id_of(worker: int, tick: int) -> int:
    """Give the id of a tick."""
    return IdParts(tick >> SEQUENCE_BITS, worker, tick & SEQUENCE).id


def ids_of(worker: int, first: int, count: int) -> list[int]:
    """Give the ids of so many ticks on end."""
    made: list[int] = []
    tick, end = first, first + count
    while tick < end:
        next_millisecond = (tick | SEQUENCE) + 1
        begin = id_of(worker, tick)
        made += range(begin, begin + min(next_millisecond, end) - tick)
        tick = next_millisecond
    return made
