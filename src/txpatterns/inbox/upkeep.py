"""What a consumer does beside handling: it stays a member of its group, and forgets what is old."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.database import Leases
from txpatterns.errors import LeaseLost
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.suspicion import Suspicion

_CLEANING_INTERVAL = timedelta(minutes=1)


class Membership:
    """This process among the group's, so that the others notice when it dies."""

    def __init__(self, leases: Leases, suspicion: Suspicion) -> None:
        self._leases = leases
        self._suspicion = suspicion

    async def join(self) -> None:
        """Become a member; deliveries are suspect from now on if another died."""
        self._suspicion.hear(await self._leases.join())
        await self._leases.acquire(1)  # there are no slots; this forgets the members that died long ago

    async def keep(self, clock: Clock, stopping: asyncio.Event) -> None:
        """Renew the membership until the consumer stops."""
        while not await clock.wait(stopping, self._leases.ttl / 3):
            try:
                self._suspicion.hear(await self._leases.renew())
            except LeaseLost:
                await self.join()

    async def leave(self) -> None:
        """End the membership, so that nobody takes this process for dead."""
        await self._leases.leave()


async def keep_clean(inbox: Inbox, retention: timedelta, clock: Clock, stopping: asyncio.Event) -> None:
    """Forget what was handled before the retention, again and again, until the consumer stops."""
    while not await clock.wait(stopping, _CLEANING_INTERVAL):
        await inbox.clean(retention)
