"""Being one of a scope's members without owning anything of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.coordination.census import Census
from txpatterns.coordination.leases import Leases
from txpatterns.coordination.pace import until_round
from txpatterns.errors import LeaseLost


class Membership:
    """This process among the members of a scope, so that the others notice when it dies.

    ``told`` is given each census: how many live, and how many died without leaving. ``lost`` is called when the
    membership had run out, before another one is begun.
    """

    def __init__(
        self, leases: Leases, told: Callable[[Census], None], lost: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._leases = leases
        self._told = told
        self._lost = lost

    async def join(self) -> None:
        """Become a member."""
        self._told(await self._leases.join())
        await self._leases.acquire(1)  # there are no slots; this forgets the members that died long ago

    async def keep(self, clock: Clock, stopping: asyncio.Event) -> None:
        """Renew the membership until ``stopping`` is set; one that was lost is begun anew."""
        every = self._leases.ttl.total_seconds() / 3
        while not await clock.wait(stopping, timedelta(seconds=until_round(clock, every))):
            try:
                self._told(await self._leases.renew())
            except LeaseLost:
                if self._lost is not None:
                    await self._lost()
                await self.join()

    async def leave(self) -> None:
        """End the membership, so that nobody takes this process for dead."""
        await self._leases.leave()
