"""How a relay comes to its buckets and parts from them: joining, moving towards a fair share, leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.looking import Looking
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.schema import SCOPE
from txpatterns.runtime.moments import Ownership
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns.relay")

_TENDS_APART = 0.2
"""Between two looks who is there, however many come and go."""
_HAND_OVER_EVERY = 0.05
_LEAVE_AGAIN = (0.0, 0.05, 0.2)


class Membership:
    """The buckets of one stretch of a relay's work. None is handed over while something of it is under way."""

    def __init__(
        self, state: RelayState, backlog: Backlog, holding: Holding, reading: Reading, looking: Looking
    ) -> None:
        self.state = state
        self.backlog = backlog
        self.holding = holding
        self.reading = reading
        self.looking = looking
        self.ownership = state.ownership
        self.tend_every = state.settings.lease.total_seconds() / 3
        self.members_changed = False
        """Another relay has come or gone: there is a look at once."""
        self._tend_at = self._tended_at = 0.0

    async def begin(self, arriving: Sequence[int]) -> None:
        """Go to work on what was taken when the relay joined."""
        await self._adopt(arriving)
        self.state.hooks.tell(Ownership(SCOPE, len(self.ownership.held)))
        self._tend_at = self.state.clock.monotonic() + self.tend_every

    def is_due(self, now: float) -> bool:
        """Whether it is time to renew the lease, or to see who has come or gone."""
        return now >= self._tend_at or (self.members_changed and now >= self._tended_at + _TENDS_APART)

    def next_times(self) -> list[float]:
        """Say when the next look may be due."""
        return [self._tend_at, *([self._tended_at + _TENDS_APART] if self.members_changed else [])]

    async def tend(self) -> None:
        """Renew the lease, hand over what is above the share and free, and take what is below it."""
        self.members_changed = False
        arriving = await self.ownership.tend()
        if self.ownership.leaving:
            self.backlog.forget_buckets(self.ownership.leaving)
            self.reading.forget_page()
            await self.ownership.hand_over(self.under_way)
        await self._adopt(arriving)
        pause = _HAND_OVER_EVERY if self.ownership.leaving else self.tend_every
        self._tended_at = self.state.clock.monotonic()
        self._tend_at = self._tended_at + pause
        self.state.hooks.tell(Ownership(SCOPE, len(self.ownership.held)))

    def under_way(self, buckets: set[int]) -> bool:
        """Whether something of these buckets is begun, so that nobody else may have them yet."""
        retrying = any(bucket in buckets for bucket in self.looking.retrying.buckets.values())
        claiming = not self.looking.claiming.isdisjoint(buckets)
        return retrying or claiming or self.backlog.under_way(buckets) or self.holding.concerns(buckets)

    async def _adopt(self, buckets: Sequence[int]) -> None:
        """Start with buckets that are newly ours: learn which lanes are held up, and read from the beginning."""
        if buckets:
            await self.holding.adopt(buckets)
            self.reading.restart()
            self.ownership.begin(buckets)
            self.looking.next_at = 0.0

    async def leave(self, within: float) -> None:
        """Hand the buckets over, unless the database lets nobody write: on SQLite a handler that hangs may be why."""
        try:
            async with asyncio.timeout(within):
                await self._try_to_leave()
        except TimeoutError:
            logger.info("the buckets are handed over when the lease ends: nobody else can write now")

    async def _try_to_leave(self) -> None:
        """Where a link breaks just then, try again, for the others would wait for the lease."""
        pauses = list(_LEAVE_AGAIN) if self.state.stopping else []  # otherwise it joins again, and has what was its own
        while True:
            try:
                await self.ownership.leave()
                return
            except Exception as error:  # noqa: BLE001 - without the database, the lease ends by itself
                if not pauses:
                    if self.state.stopping:
                        logger.info("the buckets are handed over when the lease ends: %s", error_line(error))
                    return
            await asyncio.sleep(pauses.pop(0))
