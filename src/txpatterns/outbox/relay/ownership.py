"""Which buckets this relay owns, and how they pass from one relay to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

from txpatterns.database.database import Database
from txpatterns.database.leases import Leases
from txpatterns.database.wakeup import MEMBERS, say
from txpatterns.messages import BUCKETS
from txpatterns.outbox.schema import SCOPE


class Ownership:
    """The leases of one relay. ``held`` maps each bucket to the epoch under which it is ours."""

    def __init__(self, database: Database, ttl: timedelta) -> None:
        self.leases = Leases(database, SCOPE, slots=BUCKETS, ttl=ttl, announce=lambda c: say(c, MEMBERS))
        self.held: dict[int, int] = {}
        self.leaving: set[int] = set()
        self.arriving: set[int] = set()
        """Ours already, but it is not known yet what is held up in them."""

    @property
    def active(self) -> list[int]:
        """The buckets to read and publish now: those of ours that are neither coming nor going."""
        return [bucket for bucket in self.held if bucket not in self.leaving and bucket not in self.arriving]

    @property
    def is_safe(self) -> bool:
        """Whether nobody else can own our buckets yet, however long this process was paused."""
        return self.leases.is_safe

    async def join(self) -> list[int]:
        """Become a member and take a fair share; gives the buckets taken, for ``begin``.

        What this process owned before is its own again, and need not wait for a lease to run out.
        """
        self.held, self.leaving, self.arriving = {}, set(), set()
        census = await self.leases.join()
        self._hold(await self.leases.acquire(census.live), set())
        return sorted(self.arriving)

    async def tend(self) -> list[int]:
        """Renew, and move towards a fair share; gives the buckets that are newly ours, for ``begin``.

        Those above the share are ``leaving`` afterwards, for ``hand_over``. Raises LeaseLost.
        """
        census = await self.leases.renew()
        going = set(self.leases.surplus(self.held, census.live))
        staying, self.leaving = self.leaving - going, going  # who stays after all was not read meanwhile
        held = self.held if going else await self.leases.acquire(census.live)
        self._hold(held, staying)
        return sorted(self.arriving)

    def _hold(self, held: dict[int, int], staying: set[int]) -> None:
        new = {bucket for bucket, epoch in held.items() if self.held.get(bucket) != epoch}
        self.held, self.arriving = held, (self.arriving | new | staying) & held.keys()

    def begin(self, buckets: Iterable[int]) -> None:
        """Go to work on buckets that are newly ours."""
        self.arriving.difference_update(buckets)

    async def hand_over(self, under_way: Callable[[set[int]], bool]) -> None:
        """Give up those buckets that are leaving of which nothing is under way."""
        free = {bucket for bucket in self.leaving if not under_way({bucket})}
        if free:
            await self.leases.release(free)
            self.leaving -= free
            self.held = {bucket: epoch for bucket, epoch in self.held.items() if bucket not in free}

    async def leave(self) -> None:
        """Hand everything over at once."""
        self.held, self.leaving, self.arriving = {}, set(), set()
        await self.leases.leave()
