"""What the explorer explores: how a system is made, what it does when it is struck, and how it recovers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, TypeVar

from txpatterns.testing.explorer.clock import HurriedClock
from txpatterns.testing.explorer.invariants import INVARIANTS, Invariant
from txpatterns.testing.explorer.outside import Outside
from txpatterns.testing.explorer.points import Points
from txpatterns.testing.explorer.wire import WireBroker, WireLog

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a system is made of in one process of a case."""

    url: str
    """The database of the case, for an asynchronous engine."""
    log: WireLog
    points: Points
    clock: HurriedClock
    random: Random
    life: int
    """-1 for the process that prepares, 0 for the one that is struck, 1 and more for those that recover."""

    def outside(self) -> Outside:
        """Give somebody else's service, which remembers what it was asked for."""
        return Outside(self.log, self.points)

    def broker(self, **options: Any) -> WireBroker:
        """Make the broker of this case, with ``capabilities`` and ``refuses`` as ``WireBroker`` takes them."""
        return WireBroker(self.log, self.points, **options)


@dataclass(frozen=True, slots=True)
class Flow(Generic[S]):
    """A short story, told by one process, and how another one puts things right when it was cut short.

    ``make`` builds the system afresh in each process. ``prepare`` runs undisturbed, before the story. ``act`` is
    the story: it is struck at one point. ``recover`` runs in a new process until nothing is left to do. Then the
    ``invariants`` must hold.
    """

    name: str
    make: Callable[[Surroundings], AbstractAsyncContextManager[S]]
    act: Callable[[S], Awaitable[object]]
    recover: Callable[[S], Awaitable[object]]
    prepare: Callable[[S], Awaitable[object]] | None = None
    invariants: Sequence[Invariant] = field(default=INVARIANTS)
    plant: Callable[[Surroundings], None] | None = None
    """Puts a bug into each process, to see that the explorer finds it."""
