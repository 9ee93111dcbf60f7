"""One uninterrupted stretch of a relay's work, from joining to leaving.

A single coordinator decides what to do next; each piece of I/O is a task, and what a task finds is noted in plain
state. So there is no lock, and the order of decisions can be read in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from txpatterns.database.identity import Identity
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.partitions import KeptMessages
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.sending import Sending
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.outbox.relay.waiting import Due, WaitingStore
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns.relay")

_GRACE = 8.0
"""Less than `finish` has patience for, which sees this to its end when it is cancelled."""
_MOMENT = 0.5
_TENDS_APART = 0.2
"""Between two looks who is there, however many come and go."""
_LOOK_EVERY = 1.0
_LOCKED = 0.2
_HAND_OVER_EVERY = 0.05
_OTHERS_EVERY = 0.2
_LEAVE_AGAIN = (0.0, 0.05, 0.2)
_FORGET = 1000
"""Kept rows that one transaction deletes."""


class Serving:
    """The state of a relay while it owns buckets."""

    def __init__(self, state: RelayState) -> None:
        settings, capabilities = state.settings, state.broker.capabilities
        self.state = state
        self.clock = state.clock
        self.batch = state.batch
        self.backlog = Backlog(
            limit=settings.read_ahead,
            lane_limit=self.batch if capabilities.ordered_prefix else max(self.batch // 10, 10),
            ordered_prefix=capabilities.ordered_prefix,
            max_bytes=settings.read_ahead_bytes,
        )
        self.ownership = state.ownership
        self.store = OutboxStore(state.database, keep_sent=settings.keep_sent is not None)
        self.kept = None if settings.keep_sent is None else KeptMessages(state.database, settings.keep_sent)
        self.waiting = WaitingStore(state.database, self.ownership.leases, state.policies, state.random)
        self.holding = Holding(self.backlog, self.waiting, self.ownership, state.hooks)
        self.reading = Reading(self.store, self.backlog, self.clock, settings.poll)
        self.sending = Sending(state, self.backlog, self.waiting, self.holding, self.reading.restart)
        self.woken = True
        self.members_changed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tend_at = self._tended_at = self._look_at = self._forget_at = 0.0
        self._steady_at = self.clock.monotonic() + self._tend_every
        self._give_up_at: float | None = None
        self._claiming: set[int] = set()
        self._looked_for = 0
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
        arriving = await self.ownership.join()
        await self._settle_retried()
        await self._adopt(arriving)
        self.state.hooks.ownership("outbox", len(self.ownership.held))
        self._tend_at = self.clock.monotonic() + self._tend_every
        while not self.state.stopping:
            self.state.changed.clear()
            self._raise_failures()
            self._start_what_is_due()
            if self._is_idle():
                self.state.hooks.idle("relay")
                self._tell_drained()
            await self.clock.wait(self.state.changed, timedelta(seconds=self._until_next()))
        await self._finish()

    @property
    def _tend_every(self) -> float:
        return self.state.settings.lease.total_seconds() / 3

    def _start_what_is_due(self) -> None:
        now = self.clock.monotonic()
        if now >= self._tend_at or (self.members_changed and now >= self._tended_at + _TENDS_APART):
            self._start("tend", self._tend)
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
        if now >= self._look_at or self._looked_for < self.state.drains.asked:
            self._start("look", self._look)
        woken = self.woken or self.reading.looked_for < self.state.drains.asked
        if len(self.holding.aside) < self.batch and self.reading.is_due(now, woken=woken):
            self._start("read", self._read)
        self._send()

    def _send(self) -> None:
        if self.clock.monotonic() >= self.sending.paused_until and self.ownership.is_safe:
            self.sending.start()

    def _is_idle(self) -> bool:
        """Whether nothing is left to do in our buckets: a whole look, begun after all asked, has found nothing due."""
        if self._tasks or self.sending.under_way or self.sending.retries or self.holding.is_busy:
            return False
        if self.state.confirmed or not self.backlog.is_empty or self.backlog.dropped:
            return False
        if self.backlog.shut_topics or self.reading.begins_again:
            return False
        return min(self.reading.looked_for, self._looked_for) >= self.state.drains.asked

    def _tell_drained(self) -> None:
        """Tell those who wait for it that all is published; what is in other relays' buckets is asked of the table."""
        if len(self.ownership.active) == BUCKETS:
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
        times = [self._tend_at, self._look_at]
        if self.state.drains.asked:
            times.append(self._others_at)
        if self.members_changed:
            times.append(self._tended_at + _TENDS_APART)
        if self.sending.paused_until > now:
            times.append(self.sending.paused_until)
        silent_at = self.sending.silent_at()
        if silent_at is not None:
            times.append(silent_at)
        if self.sending.topics:
            times.append(self.sending.topics.next_at(now) or now)
        if self.backlog.room:
            times.append(self.reading.next_at)
        # What is overdue is being done by a task, whose end is a change; the short wait is for the lease alone.
        return min((at - now for at in times if at > now), default=_HAND_OVER_EVERY)

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

    async def _tend(self) -> None:
        self.members_changed = False
        arriving = await self.ownership.tend()
        if self.ownership.leaving:
            self.backlog.forget_buckets(self.ownership.leaving)
            self.reading.forget_page()
            await self.ownership.hand_over(self._under_way)
        await self._adopt(arriving)
        pause = _HAND_OVER_EVERY if self.ownership.leaving else self._tend_every
        self._tended_at = self.clock.monotonic()
        self._tend_at = self._tended_at + pause
        self.state.hooks.ownership("outbox", len(self.ownership.held))

    async def _forget_sent(self, kept: KeptMessages) -> None:
        """Remove what was kept for long enough, in short transactions, until nothing is left of it."""
        while not self.state.stopping and await kept.forget(_FORGET):
            continue
        self._forget_at = self.clock.monotonic() + self._tend_every

    def _under_way(self, buckets: set[int]) -> bool:
        retrying = any(bucket in buckets for bucket in self.sending.retrying.values())
        claiming = not self._claiming.isdisjoint(buckets)
        return retrying or claiming or self.backlog.under_way(buckets) or self.holding.concerns(buckets)

    async def _adopt(self, buckets: Sequence[int]) -> None:
        """Start with buckets that are newly ours: learn which lanes are held up, and read from the beginning."""
        if buckets:
            await self.holding.adopt(buckets)
            self.reading.restart()
            self.ownership.begin(buckets)
            self._look_at = 0.0

    async def _read(self) -> None:
        woken, self.woken = self.woken, False
        self.holding.aside += await self.reading.page(
            self.ownership.active, self.batch, self.state.drains.asked, woken=woken
        )
        if self.clock.monotonic() >= self._steady_at:  # not before: something else may fail every time
            self.state.outages.fine()
        if not self.state.stopping:
            self._send()  # at once: what was read need not wait for the coordinator's next turn

    async def _settle(self) -> None:
        rows = list(self.state.confirmed)
        await self.store.settle(rows)
        del self.state.confirmed[: len(rows)]
        self.backlog.finish(rows)

    async def _settle_retried(self) -> None:
        """Note retries that were confirmed before an outage; those that another relay has now, it will repeat."""
        retried, held = self.state.confirmed_again, self.ownership.held
        while retried:
            if retried[0].row.bucket in held:
                await self.waiting.published(held, retried[0])
            del retried[0]

    async def _look(self) -> None:
        """See what waits for a time that has come."""
        asked = self.state.drains.asked
        held = {bucket: self.ownership.held[bucket] for bucket in self.ownership.active}
        retrying, resting = self.sending.retrying, self.sending.topics.resting(self.clock.monotonic())
        buckets, seconds = await self.waiting.due(held, retrying, resting)
        if buckets:
            mine = {bucket: held[bucket] for bucket in buckets}
            entered = await self.waiting.enter_scheduled(mine, self.batch)
            paused = self.clock.monotonic() < self.sending.paused_until  # a claim counts, so it must be used
            claimed = [] if paused else await self._claim(mine)
            self.woken = self.woken or entered > 0
            # What is due and could not be taken is locked by somebody who may be cancelling it.
            seconds = 0.0 if entered or claimed else _LOCKED
        else:
            self._looked_for = asked
        self._look_at = self.clock.monotonic() + min(seconds, _LOOK_EVERY)

    async def _claim(self, mine: dict[int, int]) -> list[Due]:
        """Take what is due of these buckets, which nobody is given meanwhile."""
        self._claiming = set(mine)
        try:
            resting = self.sending.topics.resting(self.clock.monotonic())
            claimed = await self.waiting.claim_due(mine, self.batch, self.sending.retrying, resting)
            self.sending.try_again(claimed)
        finally:
            self._claiming = set()
        return claimed

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
        await self.sending.give_back_unused()

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
        await self._leave()
        with suppress(Exception):  # the connection is closed, or was gone before
            await self.store.close()

    async def _leave(self) -> None:
        """Hand the buckets over, unless the database lets nobody write: on SQLite a handler that hangs may be why."""
        try:
            async with asyncio.timeout(max(self._time_left(), _MOMENT)):
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
