"""One uninterrupted stretch of a relay's work, from joining to leaving.

A single coordinator decides what to do next; each piece of I/O is a task, and what a task finds is noted in plain
state. So there is no lock, and the order of decisions can be read in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from txpatterns.database.identity import Identity
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.due import DueStore
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.holding_store import HoldingStore
from txpatterns.outbox.relay.looking import Looking
from txpatterns.outbox.relay.membership import Membership
from txpatterns.outbox.relay.partitions import KeptMessages
from txpatterns.outbox.relay.pauses import Pauses
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.retrying import Retrying
from txpatterns.outbox.relay.sending import Sending
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.runtime.moments import RELAY, Idle

logger = logging.getLogger("txpatterns.relay")

_GRACE = 8.0
"""Less than `finish` has patience for, which sees this to its end when it is cancelled."""
_MOMENT = 0.5
_IDLE = 0.05
_OTHERS_EVERY = 0.2
_FORGET = 1000
"""Kept rows that one transaction deletes."""


class Serving:
    """The state of a relay while it owns buckets."""

    def __init__(self, state: RelayState) -> None:
        settings, capabilities = state.settings, state.broker.capabilities
        self.state = state
        self.clock = state.clock
        self.batch = settings.batch
        self.backlog = Backlog(
            limit=settings.read_ahead,
            lane_limit=self.batch if capabilities.ordered_prefix else max(self.batch // 10, 10),
            ordered_prefix=capabilities.ordered_prefix,
            max_bytes=settings.read_ahead_bytes,
            doubts=state.doubts,
        )
        self.store = OutboxStore(state.database, keep_sent=settings.keep_sent is not None)
        self.kept = None if settings.keep_sent is None else KeptMessages(state.database, settings.keep_sent)
        waiting = state.database, state.ownership.leases, state.policies, state.random
        due = DueStore(*waiting)
        self.holding = Holding(self.backlog, HoldingStore(*waiting), state.ownership, state.hooks)
        self.reading = Reading(
            self.store, self.backlog, self.clock, partial(state.pace.between_looks, settings.poll.total_seconds())
        )
        self.pauses = Pauses(state, self.backlog, self.reading.restart)
        self.retrying = Retrying(state, due, self.holding, self.pauses)
        self.looking = Looking(state, due, self.retrying, self.pauses)
        self.membership = Membership(state, self.backlog, self.holding, self.reading, self.looking)
        self.sending = Sending(state, self.backlog, self.holding, self.pauses, self.retrying)
        self.woken = True
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._forget_at = 0.0
        self._steady_at = self.clock.monotonic() + self.membership.tending.every
        self._give_up_at: float | None = None
        self._others_at = 0.0
        self._newest: dict[int, int] = {}
        """For those who wait until all is published: the highest position there was when they were first heard."""

    async def run(self) -> None:
        """Serve until the relay stops; raises LeaseLost or what the database raised."""
        await Identity(self.state.database).learn()
        if self.kept is not None:
            await self.kept.prepare()
        if self.state.confirmed:
            await self._settle()
        arriving = await self.state.ownership.join()
        await self.retrying.settle()
        await self.membership.begin(arriving)
        while not self.state.stopping:
            self.state.changed.clear()
            self._raise_failures()
            self._start_what_is_due()
            if self._is_idle():
                self.state.hooks.tell(Idle(RELAY))
                self._tell_drained()
            await self.clock.wait(self.state.changed, timedelta(seconds=self._until_next()))
        await self._finish()

    def _start_what_is_due(self) -> None:
        now = self.clock.monotonic()
        self.looking.notice(busy=self._is_at_work())
        if self.membership.tending.is_due(now):
            self._start("tend", self.membership.tend)
        if now >= self._forget_at and self.kept is not None:
            self._start("forget", partial(self._forget_sent, self.kept))
        if self.state.confirmed:
            self._start("settle", self._settle)
        if self.holding.aside:
            self._start("set aside", self.holding.set_aside)
        if self.holding.failing:
            self._start("fail", self.holding.write_failures)
        if self.holding.releases:
            self._start("release", self.holding.release)
        if now >= self.looking.next_at or self.looking.looked_for < self.state.drains.asked:
            self._start("look", self._look)
        woken = self.woken or self.reading.looked_for < self.state.drains.asked
        if len(self.holding.aside) < self.batch and self.reading.is_due(now, woken=woken):
            self._start("read", self._read)
        self._send()

    def _send(self) -> None:
        if self.state.ownership.is_safe and not self.pauses.lasts(self.clock.monotonic()):
            self.sending.start()

    def _is_idle(self) -> bool:
        """Whether nothing is left to do in our buckets: a whole look, begun after all asked, has found nothing due."""
        if self._tasks or self._is_at_work():
            return False
        if self.state.confirmed or not self.backlog.is_empty or self.backlog.dropped:
            return False
        if self.backlog.shut_topics or self.reading.begins_again:
            return False
        return min(self.reading.looked_for, self.looking.looked_for) >= self.state.drains.asked

    def _is_at_work(self) -> bool:
        """Whether something is under way that may end with a message that waits for a time."""
        return bool(self.sending.under_way or self.retrying.queue or self.holding.is_busy)

    def wake(self) -> None:
        """Look at what was committed: at what is to be sent at once, and soon at what is scheduled."""
        self.woken = True
        self.looking.soon()

    def _tell_drained(self) -> None:
        """Tell those who wait for it that all is published; what is in other relays' buckets is asked of the table."""
        if len(self.state.ownership.active) == BUCKETS:
            self.state.drains.end(self.state.drains.asked)
        elif self.state.drains.asked and self.clock.monotonic() >= self._others_at:
            self._start("others", self._look_at_others)

    async def _look_at_others(self) -> None:
        """See whether other relays have published what was there when we first looked; one may be dead, and leave it.

        Its buckets are ours when its lease has run out, so this ends.
        """
        asked = self.state.drains.asked
        lowest, highest, due = await self.store.left()
        self._newest.setdefault(asked, highest)
        over = [number for number, newest in self._newest.items() if not due and lowest > newest]
        self.state.drains.end(max(over, default=0))
        for number in over:
            del self._newest[number]
        self._others_at = self.clock.monotonic() + _OTHERS_EVERY

    def _until_next(self) -> float:
        now = self.clock.monotonic()
        times = [*self.membership.tending.next_times(), self.looking.next_at, self.pauses.until]
        if self.state.drains.asked:
            times.append(self._others_at)
        silent_at = self.sending.silent_at()
        if silent_at is not None:
            times.append(silent_at)
        if self.pauses.topics:
            times.append(self.pauses.topics.next_at(now) or now)
        if self.backlog.room:
            times.append(self.reading.next_at)
        # What is overdue is being done by a task, whose end is a change; the short wait is for the lease alone.
        return min((at - now for at in times if at > now), default=_IDLE)

    def _start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._tasks:
            self._tasks[name] = task = asyncio.ensure_future(work())
            task.add_done_callback(lambda _: self.state.changed.set())

    def _raise_failures(self) -> None:
        self.sending.collect()
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                task.result()

    async def _forget_sent(self, kept: KeptMessages) -> None:
        """Remove what was kept for long enough, in short transactions, until nothing is left of it."""
        while not self.state.stopping and await kept.forget(_FORGET):
            continue
        self._forget_at = self.clock.monotonic() + self.membership.tending.every

    async def _read(self) -> None:
        woken, self.woken = self.woken, False
        self.holding.aside += await self.reading.page(
            self.state.ownership.active, self.batch, self.state.drains.asked, woken=woken
        )
        if self.clock.monotonic() >= self._steady_at:  # not before: something else may fail every time
            self.state.outages.fine()
        if not self.state.stopping:
            self._send()  # at once: what was read need not wait for the coordinator's next turn

    async def _settle(self) -> None:
        rows = list(self.state.confirmed)
        number = await self.store.settle(rows)
        if number is not None:
            self.reading.wrote_nothing(number)
        del self.state.confirmed[: len(rows)]
        self.backlog.unfinished.finish(rows)

    async def _look(self) -> None:
        if await self.looking.look():
            self.woken = True

    def hurry(self) -> None:
        """Give what is under way only a moment more: the time to stop in is over."""
        self._give_up_at = self.clock.monotonic() + _MOMENT

    def _time_left(self) -> float:
        """Say what is left of the time that the end of this may take, which begins with the first question."""
        now = self.clock.monotonic()
        self._give_up_at = self._give_up_at or now + _GRACE
        return max(self._give_up_at - now, 0.0)

    async def _finish(self) -> None:
        """Let what is under way end, and settle what was confirmed."""
        under_way = [*self._tasks.values(), *self.sending.under_way]
        if under_way:
            await asyncio.wait(under_way, timeout=self._time_left())
        if self.state.confirmed:
            await self._settle()
        await self.retrying.give_back_unused()

    async def close(self) -> None:
        """End every task and hand the buckets over; the database may be away."""
        tasks = list(self._tasks.values())
        if tasks:
            # Cancelled in the middle of a statement, a connection could only be thrown away.
            await asyncio.wait(tasks, timeout=self._time_left())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sending.end(self._time_left())
        await self.state.ownership.leave(max(self._time_left(), _MOMENT), for_good=self.state.stopping)
        with suppress(Exception):  # the connection is closed, or was gone before
            await self.store.close()
