"""One uninterrupted stretch of a relay's work, from joining to leaving.

A single coordinator decides; each piece of I/O is a task, and what a task finds is noted in plain state. So there
is no lock, and the order of decisions can be read from ``step``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from txpatterns.database.identity import Identity
from txpatterns.errors import BrokerUnavailable
from txpatterns.outbox.backlog import Backlog, Lane, Row
from txpatterns.outbox.ownership import Ownership
from txpatterns.outbox.reading import Reading, covers
from txpatterns.outbox.store import OutboxStore
from txpatterns.outbox.waiting import Due, WaitingStore
from txpatterns.transport import Outcome, Verdict

if TYPE_CHECKING:
    from txpatterns.outbox.relay import Relay

logger = logging.getLogger("txpatterns.relay")

_SENDS = 2
"""Publications under way together: one is confirmed while the next is written."""
_GRACE = 10.0


class Serving:
    """The state of a relay while it owns buckets."""

    def __init__(self, relay: Relay, drains: list[asyncio.Future[None]]) -> None:
        settings, capabilities = relay.settings, relay.broker.capabilities
        self.relay = relay
        self.clock = relay.database.clock
        self.ordered = capabilities.ordered_prefix
        self.patient = capabilities.confirms_handling
        self.batch = min(settings.batch, capabilities.max_batch)
        self.backlog = Backlog(
            limit=settings.read_ahead,
            lane_limit=self.batch if self.ordered else max(self.batch // 10, 10),
            ordered_prefix=self.ordered,
        )
        self.ownership = Ownership(relay.database, settings.lease)
        self.store = OutboxStore(relay.database, keep_sent=settings.keep_sent is not None)
        self.waiting = WaitingStore(relay.database, self.ownership.leases, relay.policies, relay.random)
        self.reading = Reading(self.store, self.backlog, self.clock, settings.poll)
        self.woken = True
        self.worked = False
        self._drains = drains
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._aside: list[Row] = []
        self._failing: deque[tuple[Row, Exception | None, bool]] = deque()
        self._retries: deque[Due] = deque()
        self._releases: deque[tuple[int, Lane]] = deque()
        self._tend_at = self._look_at = self._send_at = 0.0
        self._trouble = 0
        self._looked_for: list[asyncio.Future[None]] = []
        self._released: dict[Lane, int] = {}

    async def run(self) -> None:
        """Serve until the relay stops; raises LeaseLost or what the database raised."""
        await Identity(self.relay.database).learn()
        if self.relay.confirmed:
            await self._settle()
        await self._adopt(await self.ownership.join())
        self.relay.hooks.ownership("outbox", len(self.ownership.held))
        self._tend_at = self.clock.monotonic() + self._tend_every
        while not self.relay.stopping:
            self.relay.changed.clear()
            self._start_what_is_due()
            self._raise_failures()
            if self._is_drained():
                self.relay.hooks.idle("relay")
            await self.clock.wait(self.relay.changed, timedelta(seconds=self._next_deadline()))
        await self._finish()

    @property
    def _tend_every(self) -> float:
        return self.relay.settings.lease.total_seconds() / 3

    # ------------------------------------------------------------------ deciding

    def _start_what_is_due(self) -> None:
        now = self.clock.monotonic()
        if now >= self._tend_at:
            self._start("tend", self._tend)
        if self.relay.confirmed:
            self._start("settle", self._settle)
        if self._aside:
            self._start("set aside", self._set_aside)
        if self._failing:
            self._start("fail", self._fail)
        if self._releases:
            self._start("release", self._release)
        if now >= self._look_at or not covers(self._looked_for, self._drains):
            self._start("look", self._look)
        if self.reading.is_due(now, woken=self.woken or not covers(self.reading.looked_for, self._drains)):
            self._start("read", self._read)
        if now >= self._send_at:
            self._send()

    def _send(self) -> None:
        if not self.ownership.is_safe:
            return
        if self.ordered and (self._retries or self.backlog.has_lonely):
            # One message all by itself: a transport that batches must not blame it for its neighbours.
            if not self._sends:
                self._start_send(self._retry(self._retries.popleft()) if self._retries else self._publish_lonely())
            return
        while self._retries and len(self._sends) < self._most_sends:
            self._start_send(self._retry(self._retries.popleft()))
        while self.backlog.ready and len(self._sends) < self._most_sends:
            rows = self.backlog.next_batch(self.batch, self.relay.settings.max_bytes)
            if not rows:
                return
            self._start_send(self._publish(rows))

    @property
    def _most_sends(self) -> int:
        # A broker that confirms handling may take long for one message; others must not wait for it.
        return self.relay.settings.read_ahead if self.patient else _SENDS

    def _is_drained(self) -> bool:
        """Tell those who wait for it that a whole look, begun after they asked, found nothing due."""
        if not self._drains:
            return not self._tasks and not self._sends
        busy = self._tasks or self._sends or self._failing or self._aside or self._retries or self._releases
        if busy or self.relay.confirmed or not self.backlog.is_empty or self.backlog.next_pass_from() is not None:
            return False
        if covers(self.reading.looked_for, self._drains) and covers(self._looked_for, self._drains):
            done, self._drains[:] = list(self._drains), []
            for drain in done:
                if not drain.done():
                    drain.set_result(None)
            return True
        return False

    def _next_deadline(self) -> float:
        now = self.clock.monotonic()
        at = [self._tend_at, self._look_at]
        at += [self._send_at] if self._send_at > now else []
        at += [self.reading.next_at] if self.backlog.room else []
        return max(min(at) - now, 0.0) if min(at) > now else 0.05

    # ------------------------------------------------------------------ tasks

    def _start(self, name: str, work: Any) -> None:
        if name not in self._tasks:
            self._tasks[name] = task = asyncio.ensure_future(work())
            task.add_done_callback(self._done)

    def _start_send(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._sends.add(task)
        task.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self.relay.changed.set()

    def _raise_failures(self) -> None:
        for task in [task for task in self._sends if task.done()]:
            self._sends.discard(task)
            task.result()
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                task.result()

    async def _tend(self) -> None:
        await self._adopt(await self.ownership.tend(self.backlog.under_way))
        self.backlog.forget_buckets(self.ownership.leaving)
        leaving = bool(self.ownership.leaving)
        self._tend_at = self.clock.monotonic() + (0.05 if leaving else self._tend_every)
        self.relay.hooks.ownership("outbox", len(self.ownership.held))
        keep = self.relay.settings.keep_sent
        if keep is not None:
            await self.store.forget_sent(self.relay.database.now(-keep), 1000)

    async def _adopt(self, buckets: Sequence[int]) -> None:
        """Start with buckets that are newly ours: learn which lanes are held up, and read from the beginning."""
        if not buckets:
            return
        lanes = await self.waiting.lanes(buckets)
        self.backlog.held |= lanes.held
        for bucket, lane in lanes.orphaned:
            self._begin_release(bucket, lane)
        self.reading.restart()
        self._look_at = 0.0

    async def _read(self) -> None:
        self.woken = False
        self._aside += await self.reading.page(self.ownership.active, self.batch, list(self._drains))
        self.worked = True

    async def _settle(self) -> None:
        rows = list(self.relay.confirmed)
        await self.store.settle(rows)
        del self.relay.confirmed[: len(rows)]
        self.backlog.finish(rows)

    async def _set_aside(self) -> None:
        rows, self._aside = self._aside, []
        await self.waiting.set_aside(self.ownership.held, rows)

    async def _look(self) -> None:
        """See what waits for a time that has come."""
        asked = list(self._drains)
        held = {bucket: self.ownership.held[bucket] for bucket in self.ownership.active}
        buckets, seconds = await self.waiting.due(held)
        if buckets:
            mine = {bucket: held[bucket] for bucket in buckets}
            entered = await self.waiting.enter_scheduled(mine, self.batch)
            claimed = await self.waiting.claim_due(mine, self.batch)
            self._retries.extend(claimed)
            if entered:
                self.woken = True
        self._look_at = self.clock.monotonic() + (0.0 if buckets else min(seconds, _GRACE))
        if not buckets:
            self._looked_for = asked

    async def _fail(self) -> None:
        """Take failing messages out of the outbox, and hold up their lanes or let them go on."""
        while self._failing:
            row, error, permanent = self._failing[0]
            held = await self.waiting.fail(self.ownership.held, row, error, permanent=permanent)
            self._failing.popleft()
            self.backlog.finish([row])
            self.relay.hooks.publish_failed(row.message, error, 1)
            if permanent:
                self.relay.hooks.dead(row.message, None, str(error))
            if not held:
                self.backlog.release(row.lane, row.position)

    async def _release(self) -> None:
        while self._releases:
            bucket, lane = self._releases[0]
            position, free = await self.waiting.release(self.ownership.held, bucket, lane)
            if position is not None:
                self._released.setdefault(lane, position)
            if free:
                self._releases.popleft()
                self.backlog.release(lane, self._released.pop(lane, 0))
            elif position is None:
                # Another failing message of the lane waits: it is held up again, or an operator decides.
                self._releases.popleft()
                self.backlog.releasing.discard(lane)
                self.backlog.held.add(lane)

    def _begin_release(self, bucket: int, lane: Lane) -> None:
        self.backlog.begin_release(lane)
        self._releases.append((bucket, lane))

    # ------------------------------------------------------------------ publishing

    async def _publish_lonely(self) -> None:
        await self._publish(self.backlog.next_lonely())

    async def _publish(self, rows: Sequence[Row]) -> None:
        open_rows = {row.message.id: row for row in rows}

        def told(outcomes: Mapping[str, Outcome]) -> None:
            if not self.ordered:
                # Each row is a lane of its own here, so its outcome can be acted on as soon as it is told.
                early = [open_rows.pop(message_id) for message_id in outcomes if message_id in open_rows]
                self._conclude(early, outcomes)

        outcomes = await self._outcomes(rows, told)
        self._conclude(list(open_rows.values()), outcomes)

    async def _outcomes(self, rows: Sequence[Row], told: Any) -> dict[str, Outcome]:
        messages = [row.message for row in rows]
        outcomes: dict[str, Outcome] = {}
        deadline = None if self.patient else self.relay.settings.deadline.total_seconds() + 5
        with self.relay.hooks.publishing(messages):
            try:
                async with asyncio.timeout(deadline):
                    async for some in self.relay.broker.publish(messages):
                        outcomes.update(some)
                        told(some)
            except BrokerUnavailable as error:
                untold = Outcome(Verdict.UNAVAILABLE, error)
                outcomes = {message.id: untold for message in messages} | outcomes
            except Exception as error:  # noqa: BLE001 - whatever an adapter raises, the rest is unknown
                logger.warning("publishing ended without an answer: %r", error)
                untold = Outcome(Verdict.UNKNOWN, error)
                outcomes = {message.id: untold for message in messages} | outcomes
        return outcomes

    def _conclude(self, rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> None:
        if not rows:
            return
        found = self.backlog.conclude(rows, outcomes)
        if found.settled:
            self._trouble = 0
            self.relay.confirmed.extend(found.settled)
            oldest = min(row.message.occurred_at for row in found.settled)
            self.relay.hooks.published([row.message for row in found.settled], self.clock.now() - oldest)
        for failed, permanent in ((found.rejected, True), (found.doubtful, False)):
            for row, error in failed:
                self.backlog.hold(row.lane)
                self._failing.append((row, error, permanent))
        if found.trouble is not None:
            self._back_off(found.trouble, unavailable=found.unavailable)
        self.relay.changed.set()

    def _back_off(self, error: Exception, *, unavailable: bool) -> None:
        """Pause before sending again, a little longer each time in a row."""
        if unavailable and self._trouble == 0:
            self.relay.hooks.broker_unavailable(error)
        seconds = min(0.05 * 2**self._trouble, 15.0) * (0.5 + self.relay.random.random() / 2)
        self._trouble = min(self._trouble + 1, 12)
        self._send_at = self.clock.monotonic() + seconds

    async def _retry(self, due: Due) -> None:
        """Try a failing message once more; its attempt is counted already, and uncounted when nothing was decided."""
        before, held, row = self.backlog.confirmations, self.ownership.held, due.row
        outcome = (await self._outcomes([row], lambda _: None)).get(row.message.id, Outcome(Verdict.UNKNOWN))
        undecided = outcome.verdict is Verdict.UNKNOWN and self.backlog.confirmations == before and self._trouble > 0
        if outcome.verdict is Verdict.CONFIRMED:
            self.backlog.confirmations += 1
            await self.waiting.published(held, due)
            self.relay.hooks.published([row.message], self.clock.now() - row.message.occurred_at)
            self._begin_release(row.bucket, row.lane)
        elif outcome.verdict is Verdict.UNAVAILABLE or undecided:
            self._back_off(outcome.error or ConnectionError("no answer"), unavailable=True)
            await self.waiting.give_back(held, due, timedelta(seconds=1))
        else:
            permanent = outcome.verdict is Verdict.REJECTED
            dead = await self.waiting.conclude_due(held, due, outcome.error, permanent=permanent)
            self.relay.hooks.publish_failed(row.message, outcome.error, due.attempts)
            if dead:
                self.relay.hooks.dead(row.message, None, str(outcome.error))
                self._begin_release(row.bucket, row.lane)
        self._look_at = 0.0

    # ------------------------------------------------------------------ ending

    async def _finish(self) -> None:
        """Let what is under way end, and settle what was confirmed."""
        for name in ("read", "look"):
            if name in self._tasks:
                self._tasks[name].cancel()
        under_way = [*self._tasks.values(), *self._sends]
        if under_way:
            await asyncio.wait(under_way, timeout=_GRACE)
        if self.relay.confirmed:
            await self._settle()

    async def close(self) -> None:
        """End every task and hand the buckets over; the database may be away.

        Publications are awaited for a while: an answer that comes spares a duplicate, and the next stretch of
        work begins by settling what was confirmed.
        """
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sends:
            await asyncio.wait(self._sends, timeout=_GRACE)
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)
        try:
            await self.ownership.leave()
        except Exception as error:  # noqa: BLE001 - without the database, the lease ends by itself
            logger.info("the buckets are handed over when the lease ends: %s", type(error).__name__)
