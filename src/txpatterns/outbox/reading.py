"""Where the relay reads next: on from the last row, and before it for what has come to light late.

Positions become visible out of order: number 7 may be committed after 8 was read. So the table is read in passes, each
page on from the last; and with every page comes, of the same snapshot, what transactions have written before that
place which ran at an earlier look and have ended. Without that, a row could be read before one of its own key that
had been committed before it. Such a transaction is waited for by nobody: it has a place in a list until it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.outbox.backlog import Backlog
from txpatterns.outbox.rows import Row
from txpatterns.outbox.store import OutboxStore, Place
from txpatterns.outbox.unseen import Unseen

_FULL = 60.0
"""So often a pass begins at the very start: for rows that were written in a way that is not ours."""
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
        """The last position of the last page, and the highest that was ever read."""
        self._unseen = Unseen()
        self._read: list[int] = []
        """Where the rows are that were read above all that is unseen; some may be finished."""
        self._forgotten = 0
        self._at_end = True
        self._begin_again = False
        self._generation = 0
        self._full_at = 0.0
        self._pause = _FIRST_POLL
        self._asked: list[asyncio.Future[None]] = []
        self.looked_for: list[asyncio.Future[None]] = []

    def restart(self) -> None:
        """Read everything again: buckets have come to us with all that is in them, or a topic flows again."""
        self._begin_again = True
        self.forget_page()

    @property
    def begins_again(self) -> bool:
        """Whether everything is to be read again, and that has not begun."""
        return self._begin_again

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
            self._begin_again, self._at_end, self._full_at = False, True, 0.0
        if self._at_end:
            self._begin_pass(now, asked)
        note = self.backlog.reading_began()
        limit = min(limit, max(self.backlog.room, 1))
        room = max(self.backlog.room_bytes, 1)
        page = await self.store.page(
            Place(self._cursor, self._unseen, self._known(), self.backlog.shut_topics), buckets, limit, room
        )
        if generation != self._generation:
            return []
        rows = page.rows
        aside = self.backlog.take_in(rows)
        self.backlog.reading_ended(note)
        if page.snapshot is not None:
            self._unseen = self._unseen.after(page.snapshot, self._highest)
            lowest = self._unseen.lowest
            self._read = [position for position in self._read if position > lowest] + self.backlog.positions_of(rows)
        if rows:
            self._pause = _FIRST_POLL
            self._highest = max(self._highest, rows[-1].position)
        if len(rows) < limit and sum(len(row.message.payload) for row in rows) < room:
            self._cursor = self._highest
            self._end_pass()
        else:
            self._cursor = rows[-1].position
        return aside

    def _known(self) -> list[int]:
        """Give what need not be read again when something comes to light among it."""
        forgotten = self.backlog.forgotten
        if self._forgotten != forgotten or len(self._read) > 2 * self.backlog.limit:
            self._read, self._forgotten = self.backlog.positions(self._unseen.lowest), forgotten
        return self._read

    def _begin_pass(self, now: float, asked: list[asyncio.Future[None]]) -> None:
        left_out = self.backlog.next_pass_from()
        if asked or now >= self._full_at:
            self._cursor, self._full_at = 0, now + _FULL
        elif left_out is not None:
            self._cursor = min(left_out - 1, self._cursor)
        self._asked = asked
        self._at_end = False
        self.backlog.begin_pass(self._cursor + 1)

    def _end_pass(self) -> None:
        self._at_end = True
        self.looked_for = self._asked
        self.next_at = self.clock.monotonic() + self._pause
        self._pause = min(self._pause * 2, self.longest)
