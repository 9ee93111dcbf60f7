"""When to look for what waits for a time that has come: scheduled messages, and failing ones that are tried again."""

from __future__ import annotations

from txpatterns.coordination import Held
from txpatterns.outbox.relay.due import Due, DueStore
from txpatterns.outbox.relay.pauses import Pauses
from txpatterns.outbox.relay.retrying import Retrying
from txpatterns.outbox.relay.state import RelayState

_LOOK_EVERY = 1.0
_LOCKED = 0.2


class Looking:
    """The looks of one stretch of a relay's work at what waits in its buckets."""

    def __init__(self, state: RelayState, store: DueStore, retrying: Retrying, pauses: Pauses) -> None:
        self.state = state
        self.store = store
        self.retrying = retrying
        self.pauses = pauses
        self.next_at = 0.0
        self._looked_at = 0.0
        self._was_busy = self._stirred = False
        self.looked_for = 0
        """The number of who asked last, see `Drains`, when the last look began that found nothing due."""
        self.claiming: set[int] = set()
        """The buckets in which something is being claimed: nobody is given them meanwhile."""

    def soon(self) -> None:
        """Something may have begun to wait since the last look: the next is made when it is usual, not later."""
        self._stirred = True
        self.next_at = min(self.next_at, self._looked_at + _LOOK_EVERY)

    def notice(self, *, busy: bool) -> None:
        """Be told, at each turn, whether the relay is at work: what it does may leave something that waits."""
        if busy or self._was_busy:
            self.soon()
        self._was_busy = busy

    async def look(self) -> bool:
        """See what waits for a time that has come; gives whether anything entered the outbox."""
        asked, ownership, resting = self.state.drains.asked, self.state.ownership, self._resting()
        self._stirred = False
        held, entered = {bucket: ownership.held[bucket] for bucket in ownership.active}, 0
        buckets, seconds = await self.store.due(held, self.retrying.buckets, resting)
        if buckets:
            mine = {bucket: held[bucket] for bucket in buckets}
            entered = await self.store.enter_scheduled(mine, self.state.settings.batch)
            paused = self.pauses.lasts(self.state.clock.monotonic())  # a claim counts, so it must be used
            claimed = [] if paused else await self._claim(mine)
            # What is due and could not be taken is locked by somebody who may be cancelling it.
            seconds = 0.0 if entered or claimed else _LOCKED
        else:
            self.looked_for = asked
        self._looked_at = self.state.clock.monotonic()
        longest = _LOOK_EVERY if self._stirred else self.state.pace.between_looks(_LOOK_EVERY)
        self.next_at = self._looked_at + min(seconds, longest)
        return entered > 0

    async def _claim(self, mine: Held) -> list[Due]:
        """Take what is due of these buckets."""
        self.claiming = set(mine)
        try:
            most = self.state.settings.batch
            claimed = await self.store.claim_due(mine, most, self.retrying.buckets, self._resting())
            self.retrying.add(claimed)
        finally:
            self.claiming = set()
        return claimed

    def _resting(self) -> list[str]:
        return self.pauses.topics.resting(self.state.clock.monotonic())
