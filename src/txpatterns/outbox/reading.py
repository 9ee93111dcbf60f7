"""Where the relay reads next: on from the last row, or again from a low position, to find what came late.

A row may commit after rows with higher positions were read. So the table is read in passes. A pass begins at the
position below which no transaction that ran at an earlier look still runs: that saves reading, and is a hint only,
for once a minute a pass begins at the very start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.outbox.backlog import Backlog, Row
from txpatterns.outbox.store import Mark, OutboxStore

_RESCAN = 0.2
_FULL = 60.0
_HORIZON = 1.0
_FIRST_POLL = 0.05


def covers(looked_for: Sequence[asyncio.Future[None]], asked: Sequence[asyncio.Future[None]]) -> bool:
    """Whether a look that began when ``looked_for`` had asked serves all who ask now."""
    return all(any(one is other for other in looked_for) for one in asked)


class Reading:
    """The place of one relay in the table."""

    def __init__(self, store: OutboxStore, backlog: Backlog, clock: Clock, poll: timedelta) -> None:
        self.store = store
        self.backlog = backlog
        self.clock = clock
        self.longest = poll.total_seconds()
        self.next_at = 0.0
        self._cursor = self._highest = 0
        self._low = 0
        """Nothing that is not settled can stand at or below this position, as far as we know."""
        self._mark: Mark | None = None
        self._proven = self._proven_at_start = 0
        self._at_end = True
        self._begin_again = False
        self._generation = 0
        self._rescan_at = self._full_at = self._horizon_at = 0.0
        self._pause = _FIRST_POLL
        self._asked: list[asyncio.Future[None]] = []
        self.looked_for: list[asyncio.Future[None]] = []

    def restart(self) -> None:
        """Read everything again: buckets came to us with all that is in them."""
        self._begin_again = True
        self.forget_page()

    def forget_page(self) -> None:
        """Throw away the page that is being read, if any: the buckets have changed. It is read again."""
        self._generation += 1

    def is_due(self, now: float, *, woken: bool) -> bool:
        """Whether there is room and a reason to read."""
        if not self.backlog.room:
            return False
        return (
            self._begin_again
            or not self._at_end
            or woken
            or now >= self.next_at
            or self.backlog.next_pass_from() is not None
        )

    async def page(self, buckets: Sequence[int], limit: int, asked: list[asyncio.Future[None]]) -> list[Row]:
        """Read one page into the backlog; gives the rows of held lanes, which are to be set aside."""
        now, generation = self.clock.monotonic(), self._generation
        if self._begin_again:
            self._low = self._proven = self._proven_at_start = self._highest = 0
            self._mark, self._full_at, self._rescan_at = None, 0.0, 0.0
            self._begin_again, self._at_end = False, True
        if self._at_end:
            self._begin_pass(now, asked)
        note = self.backlog.reading_began()
        limit = min(limit, max(self.backlog.room, 1))
        room = max(self.backlog.room_bytes, 1)
        rows = await self.store.page(self._cursor, buckets, limit, room)
        if generation != self._generation:
            return []
        aside = self.backlog.take_in(rows)
        self.backlog.reading_ended(note)
        if rows:
            self._cursor, self._pause = rows[-1].position, _FIRST_POLL
            self._highest = max(self._highest, self._cursor)
        if len(rows) < limit and sum(len(row.message.payload) for row in rows) < room:
            self._end_pass()
        return aside

    def _begin_pass(self, now: float, asked: list[asyncio.Future[None]]) -> None:
        left_out = self.backlog.next_pass_from()
        if asked or now >= self._full_at:
            self._cursor, self._full_at = 0, now + _FULL
        elif left_out is not None:
            self._cursor = left_out - 1
        elif self.backlog.is_empty or now >= self._rescan_at:
            self._cursor, self._rescan_at = self._low, now + _RESCAN
        self._proven_at_start = self._proven if self._cursor <= self._low else 0
        self._asked = asked
        self._at_end = False
        self.backlog.begin_pass(self._cursor + 1)

    def horizon_is_due(self, now: float) -> bool:
        """Whether it is worth a look how far the low mark could be raised."""
        return now >= self._horizon_at and self._highest > self._low

    async def look_at_horizon(self) -> None:
        """Learn whether all transactions that ran at the mark have ended, and set the next mark.

        What they committed is visible now, but need not be read yet: the low mark is raised only by a whole pass
        that begins after this.
        """
        self._horizon_at = self.clock.monotonic() + _HORIZON
        highest = self._highest
        oldest, newest = await self.store.horizon()
        if self._mark is not None and oldest >= self._mark.transaction:
            self._proven, self._mark = self._mark.position, None
        if self._mark is None and self._highest >= highest > self._proven:
            self._mark = Mark(highest, newest)

    def _end_pass(self) -> None:
        self._at_end = True
        self._low = max(self._low, self._proven_at_start)
        self.looked_for = self._asked
        self.next_at = self.clock.monotonic() + self._pause
        self._pause = min(self._pause * 2, self.longest)
