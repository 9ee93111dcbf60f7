"""Where the relay reads next: on from the last row, and before it for what has come to light late.

Positions become visible out of order: number 7 may be committed after 8 was read. So the table is read in passes, each
page on from the last; and with every page comes, of the same snapshot, what transactions have written before that
place which ran at an earlier look and have ended. Without that, a row could be read before one of its own key that
had been committed before it. Such a transaction is waited for by nobody: it has a place in a list until it ends.

A key with more messages than may be kept of one is left out from some place on. In turns with the pages of a pass,
a page is read again from there, and no further: what lies behind it of other keys is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from txpatterns.clock import Clock
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.store import OutboxStore, Page, Place
from txpatterns.outbox.relay.unseen import Unseen

_FULL = 60.0
"""So often a pass begins at the very start: for rows that were written in a way that is not ours."""
_FIRST_POLL = 0.05
_SPARSE = 4
"""Of so many rows that are read again, one at least is hoped to be of a lane that was left out."""


@dataclass(frozen=True, slots=True)
class _Found:
    page: Page
    last: int | None
    """The place of its last row; None when nothing is behind it."""
    note: dict[str, int]


class Reading:
    """The place of one relay in the table."""

    def __init__(self, store: OutboxStore, backlog: Backlog, clock: Clock, longest: Callable[[], float]) -> None:
        self.store = store
        self.backlog = backlog
        self.clock = clock
        self.longest = longest
        """Gives the longest time that may pass now between two passes."""
        self.next_at = 0.0
        self._cursor = self._highest = 0
        """The last position of the last page, and the highest that was ever read."""
        self._unseen = Unseen()
        self._ours: set[int] = set()
        """The numbers of our own transactions that have ended, and may not have at the last look."""
        self._read: list[int] = []
        """Where the rows are that were read above all that is unseen; some may be finished."""
        self._forgotten = 0
        self._at_end = True
        self._reads_again_next = True
        """Whether the next page is one for what was left out, if there is anything."""
        self._begin_again = False
        self._generation = 0
        self._full_at = 0.0
        self._pause = _FIRST_POLL
        self._asked = 0
        self.looked_for = 0
        """The number of who asked last when the last whole look began."""

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

    def wrote_nothing(self, number: int) -> None:
        """A transaction has ended that has written nothing to the outbox: nothing of it will come to light."""
        self._ours.add(number)
        self._unseen = self._unseen.without(self._ours)

    def is_due(self, now: float, *, woken: bool) -> bool:
        """Whether there is room and a reason to read."""
        if not self.backlog.room:
            return False
        return (
            self._begin_again
            or not self._at_end
            or woken
            or now >= self.next_at
            or self.backlog.next_left_out(self._cursor) is not None
        )

    async def page(self, buckets: Sequence[int], limit: int, asked: int, *, woken: bool) -> list[Row]:
        """Read one page into the backlog; gives the rows of held lanes, which are to be set aside.

        ``asked`` is who waits until all is published, see `Drains`: for them a look begins at the very start.
        """
        now, left_out = self.clock.monotonic(), self.backlog.next_left_out(self._cursor)
        if self._begin_again:
            self._begin_again, self._at_end, self._full_at = False, True, 0.0
            left_out = None
        if self._at_end and (left_out is None or woken or now >= self.next_at or self.looked_for < asked):
            self._begin_pass(now, asked)
            left_out = self.backlog.next_left_out(self._cursor)
        if left_out is not None and (self._at_end or self._reads_again_next):
            self._reads_again_next = False
            return await self._read_again(left_out, buckets, min(limit, _SPARSE * self.backlog.room_of_left_out()))
        self._reads_again_next = True
        return await self._read_on(buckets, limit)

    async def _read_on(self, buckets: Sequence[int], limit: int) -> list[Row]:
        """Read the next page of a pass."""
        place = Place(self._cursor, self._unseen, self._known(), self.backlog.shut_topics)
        found = await self._fetch(place, buckets, limit)
        if found is None:
            return []
        aside, rows = self.backlog.take_in(found.page.rows), found.page.rows
        self.backlog.unfinished.reading_ended(found.note)
        if found.page.snapshot is not None:
            snapshot = found.page.snapshot
            self._ours = {number for number in self._ours if snapshot.may_run(number)}
            self._unseen = self._unseen.after(snapshot, self._highest).without(self._ours)
            lowest = self._unseen.lowest
            self._read = [
                position for position in self._read if position > lowest
            ] + self.backlog.unfinished.positions_of(rows)
        if rows:
            self._pause = _FIRST_POLL
            self._highest = max(self._highest, rows[-1].position)
        if found.last is None:
            self._cursor = self._highest
            self._end_pass()
        else:
            self._cursor = found.last
        return aside

    async def _read_again(self, first: int, buckets: Sequence[int], limit: int) -> list[Row]:
        """Read a page from the place on where a lane was left out.

        What has come to light meanwhile comes with it, but stays unseen: behind this page there may be more of it.
        """
        after = first - 1
        known = self.backlog.unfinished.positions(min(after, self._unseen.lowest))
        found = await self._fetch(Place(after, self._unseen, known, self.backlog.shut_topics), buckets, limit)
        if found is None:
            return []
        rows, lowest = found.page.rows, self._unseen.lowest
        aside = self.backlog.take_in_again(rows, first, found.last, self._cursor)
        self._read += [position for position in self.backlog.unfinished.positions_of(rows) if position > lowest]
        self.backlog.unfinished.reading_ended(found.note)
        return aside

    async def _fetch(self, place: Place, buckets: Sequence[int], limit: int) -> _Found | None:
        """Ask the database for a page; None when it is not to be taken in."""
        generation, note = self._generation, self.backlog.reading_began()
        limit = min(limit, max(self.backlog.room, 1))
        room = max(self.backlog.room_bytes, 1)
        page = await self.store.page(place, buckets, limit, room)
        if generation != self._generation:
            return None
        rows = page.rows
        is_short = len(rows) < limit and sum(len(row.message.payload) for row in rows) < room
        return _Found(page, None if is_short else rows[-1].position, note)

    def _known(self) -> list[int]:
        """Give what need not be read again when something comes to light among it."""
        if self._unseen.lowest >= self._cursor >= self._highest:
            return []  # nothing can: only what is behind all of it is read
        forgotten = self.backlog.unfinished.forgotten
        if self._forgotten != forgotten or len(self._read) > 2 * self.backlog.limit:
            self._read, self._forgotten = self.backlog.unfinished.positions(self._unseen.lowest), forgotten
        return self._read

    def _begin_pass(self, now: float, asked: int) -> None:
        if asked or now >= self._full_at:
            self._cursor, self._full_at = 0, now + _FULL
        self._asked = asked
        self._at_end = False
        self.backlog.begin_pass(self._cursor + 1)

    def _end_pass(self) -> None:
        self._at_end = True
        self.looked_for = self._asked
        self.next_at = self.clock.monotonic() + min(self._pause, self.longest())
        self._pause = min(self._pause * 2, _FULL)
