"""Which buckets this relay owns, and how they pass from one relay to another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from txpatterns.database.database import Database
from txpatterns.database.leases import Leases
from txpatterns.messages import BUCKETS

SCOPE = "outbox"


class Ownership:
    """The leases of one relay. ``held`` maps each bucket to the epoch under which it is ours."""

    def __init__(self, database: Database, ttl: timedelta) -> None:
        self.leases = Leases(database, SCOPE, slots=BUCKETS, ttl=ttl)
        self.held: dict[int, int] = {}
        self.leaving: set[int] = set()

    @property
    def active(self) -> list[int]:
        """The buckets to read and publish now: those of ours that are not being handed over."""
        return [bucket for bucket in self.held if bucket not in self.leaving]

    @property
    def is_safe(self) -> bool:
        """Whether nobody else can own our buckets yet, however long this process was paused."""
        return self.leases.is_safe

    async def join(self) -> list[int]:
        """Become a member and take a fair share; gives the buckets taken."""
        census = await self.leases.join()
        self.held = await self.leases.acquire(census.live)
        return list(self.held)

    async def tend(self, under_way: Callable[[set[int]], bool]) -> list[int]:
        """Renew, and move towards a fair share; gives the buckets that are newly ours.

        A bucket is handed over only when nothing of it is under way. Raises LeaseLost.
        """
        census = await self.leases.renew()
        self.leaving = set(self.leases.surplus(self.held, census.live))
        if self.leaving:
            await self.hand_over(under_way)
            return []
        before = dict(self.held)
        self.held = await self.leases.acquire(census.live)
        return [bucket for bucket, epoch in self.held.items() if before.get(bucket) != epoch]

    async def hand_over(self, under_way: Callable[[set[int]], bool]) -> None:
        """Give up the buckets that are leaving, as soon as nothing of them is under way."""
        free = {bucket for bucket in self.leaving if not under_way({bucket})}
        if free:
            await self.leases.release(free)
            self.leaving -= free
            self.held = {bucket: epoch for bucket, epoch in self.held.items() if bucket not in free}

    async def leave(self) -> None:
        """Hand everything over at once."""
        self.held, self.leaving = {}, set()
        await self.leases.leave()
