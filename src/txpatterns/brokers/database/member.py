"""One member of a group: it owns parts of the group's topics under leases, reads them and forgets what is handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import quote

from txpatterns.brokers.database.progress import Progress
from txpatterns.brokers.database.schema import PARTS
from txpatterns.brokers.database.store import Part, QueueStore, Row
from txpatterns.coordination import Hearing, Leases, Ownership, Pace, Tending, say
from txpatterns.errors import BrokerUnavailable
from txpatterns.messages import Message
from txpatterns.text import error_line, storable

READERS = "readers"
"""The word that says: members of a group come, go, or give up parts."""

_BATCH, _PAGE = 100, 500
_LINGER = 0.02
"""Seconds in which acknowledgements are gathered: a deletion costs much the same for one row and for many."""
_LEAVE_WITHIN = 5.0
_NOTED_EVERY = timedelta(hours=1).total_seconds()


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """How a member reads; see `DatabaseBroker`."""

    max_in_flight: int = 2000
    max_bytes: int = 64_000_000
    poll: timedelta = timedelta(milliseconds=500)
    lease: timedelta = timedelta(seconds=15)


def scope_of(group: str, topic: str) -> str:
    """Give the scope of the leases of a topic's parts: one for each group, whatever characters the names have."""
    return storable(f"queue:{quote(group, safe='')}:{quote(topic, safe='')}", 200)


class Member:
    """Reads for one subscription, from ``join`` to ``leave``. Everything belongs to one event loop."""

    def __init__(self, store: QueueStore, group: str, topics: Sequence[str], settings: MemberSettings) -> None:
        self.group, self.topics = group, tuple(dict.fromkeys(topics))
        self._store, self._settings, self._clock = store, settings, store.database.clock
        announce = partial(say, word=READERS)
        self._owned = {
            topic: Ownership(
                Leases(store.database, scope_of(group, topic), slots=PARTS, ttl=settings.lease, announce=announce)
            )
            for topic in self.topics
        }
        self._progress = Progress(settings.max_in_flight, settings.max_bytes)
        self._tending = Tending(self._clock, settings.lease)
        self._pace = Pace(self._clock)
        self._changed, self._acknowledged, self._came = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._has_more = True
        self._failure: Exception | None = None
        self._left = False
        self._noted_at = self._clock.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, hearing: Hearing) -> None:
        """Look less often while wake-ups are known to arrive."""
        self._pace.follow(hearing)

    def wake(self) -> None:
        """Something was published."""
        self._has_more = True
        self._changed.set()

    def rebalance(self) -> None:
        """Another member has come or gone."""
        self._tending.members_changed = True
        self._changed.set()

    async def join(self) -> None:
        """Become a member and begin to read."""
        for ownership in self._owned.values():
            ownership.begin(await ownership.join())
        self._tending.begin()
        for work in (self._read, self._settle):
            self._tasks.append(asyncio.create_task(self._guarded(work), name=f"queue of {self.group}"))

    async def leave(self) -> None:
        """Stop reading, forget what was acknowledged, and let others have the rest at once."""
        self._left = True
        self._came.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):  # it comes again, and is found to be handled
            await asyncio.wait_for(self._settle_done(), _LEAVE_WITHIN)
        for ownership in self._owned.values():
            await ownership.leave(_LEAVE_WITHIN, for_good=True)

    async def batches(self) -> AsyncIterator[Sequence[QueueDelivery]]:
        """Yield deliveries as they come, until the member has left.

        Raises:
            BrokerUnavailable: the database is away, or the lease was lost; subscribe again.
        """
        while not self._left:
            rows = self._progress.next(_BATCH) if self._is_safe and self._failure is None else ()
            if rows:
                if self._progress.waiting < _BATCH:
                    self._changed.set()
                yield [QueueDelivery(self, row) for row in rows]
            elif self._failure is not None:
                raise BrokerUnavailable(
                    f"The queue of {self.group} cannot be read: {error_line(self._failure)}"
                ) from self._failure
            else:
                self._came.clear()
                await self._came.wait()

    def acknowledge(self, row: Row) -> None:
        """The application is done with a row."""
        self._progress.acknowledge(row)
        self._acknowledged.set()

    @property
    def _is_safe(self) -> bool:
        return all(ownership.is_safe for ownership in self._owned.values())

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - told to whoever reads
            self._failure = error
            self._came.set()

    async def _read(self) -> None:
        """Keep what is ours filled, and the leases alive."""
        look_at = 0.0
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            if self._tending.is_due(now):
                await self._tend()
                self._came.set()
            if self._has_more or now >= look_at:
                if self._progress.waiting < _BATCH and self._progress.room:
                    await self._read_page()
                    look_at = self._clock.monotonic() + self._pace.between_looks(self._settings.poll.total_seconds())
                    if self._has_more:
                        continue
                else:
                    self._has_more = True  # as soon as there is room
                    look_at = float("inf")
            until = min(*self._tending.next_times(), look_at) - self._clock.monotonic()
            await self._clock.wait(self._changed, timedelta(seconds=min(max(until, 0.0), 60.0)))

    async def _read_page(self) -> None:
        progress, parts = self._progress, self._parts()
        self._has_more = False
        if not parts:
            return
        limit = min(_PAGE, progress.room)
        progress.reading_began()
        whole = len(parts) == PARTS * len(self.topics)
        rows = await self._store.page(self.group, parts, whole, progress.after, limit, progress.room_bytes)
        self._has_more = self._has_more or len(rows) == limit or (bool(rows) and not progress.room_bytes)
        if rows:
            progress.take_in(rows)
            self._came.set()

    def _parts(self) -> list[Part]:
        return [(topic, slot) for topic, ownership in self._owned.items() for slot in ownership.active]

    async def _tend(self) -> None:
        """Renew the leases, hand over what is above our share and free, and take what is below it."""
        self._tending.members_changed = False
        for topic, ownership in self._owned.items():
            arriving = await ownership.tend()
            if ownership.leaving:
                self._progress.drop({(topic, slot) for slot in ownership.leaving})
                await ownership.hand_over(partial(self._is_under_way, topic))
            if arriving:
                ownership.begin(arriving)
                self._progress.read_again()
                self._has_more = True
        self._tending.done(handing_over=any(ownership.leaving for ownership in self._owned.values()))
        if self._clock.monotonic() - self._noted_at > _NOTED_EVERY:
            self._noted_at = self._clock.monotonic()
            await self._store.declare({self.group: self.topics})

    def _is_under_way(self, topic: str, slots: set[int]) -> bool:
        return any(self._progress.under_way((topic, slot)) for slot in slots)

    async def _settle(self) -> None:
        while True:
            await self._acknowledged.wait()
            if len(self._progress.done) < _PAGE:
                await asyncio.sleep(_LINGER)
            self._acknowledged.clear()
            await self._settle_done()
            self._changed.set()

    async def _settle_done(self) -> None:
        positions, self._progress.done = self._progress.done, []
        if positions:
            try:
                await self._store.settle(positions)
            except BaseException:
                self._progress.done += positions
                raise
            self._progress.settled(positions)


class QueueDelivery:
    """One message for this member of the group."""

    __slots__ = ("_member", "_row")
    redelivered = False
    """The table does not say so: to note what was given out would cost as much as to hand it out."""

    def __init__(self, member: Member, row: Row) -> None:
        self._member = member
        self._row = row

    @property
    def message(self) -> Message:
        """The message, as it was published."""
        return self._row.message

    async def ack(self) -> None:
        """Count it as done; its row is deleted soon, and at the latest when the member leaves."""
        self._member.acknowledge(self._row)
