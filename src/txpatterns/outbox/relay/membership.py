"""How a relay comes to its buckets and parts from them: joining, and moving towards a fair share."""

from __future__ import annotations

from collections.abc import Sequence

from txpatterns.coordination.tending import Tending
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.looking import Looking
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.schema import SCOPE
from txpatterns.runtime.moments import Ownership


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
        self.tending = Tending(state.clock, state.settings.lease)

    async def begin(self, arriving: Sequence[int]) -> None:
        """Go to work on what was taken when the relay joined."""
        await self._adopt(arriving)
        self.state.hooks.tell(Ownership(SCOPE, len(self.ownership.held)))
        self.tending.begin()

    async def tend(self) -> None:
        """Renew the lease, hand over what is above the share and free, and take what is below it."""
        self.tending.members_changed = False
        arriving = await self.ownership.tend()
        if self.ownership.leaving:
            self.backlog.forget_buckets(self.ownership.leaving)
            self.reading.forget_page()
            await self.ownership.hand_over(self.under_way)
        await self._adopt(arriving)
        self.tending.done(handing_over=bool(self.ownership.leaving))
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
