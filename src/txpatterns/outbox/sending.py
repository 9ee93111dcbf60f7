"""Publishing: what goes out together, what its outcomes mean, and when to pause."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from txpatterns.errors import BrokerUnavailable
from txpatterns.outbox.backlog import Backlog, Row
from txpatterns.outbox.holding import Failure, Holding
from txpatterns.outbox.schema import Waiting
from txpatterns.outbox.waiting import Due, WaitingStore
from txpatterns.transport import Outcome, Verdict

if TYPE_CHECKING:
    from txpatterns.outbox.relay import Relay

logger = logging.getLogger("txpatterns.relay")

_TOGETHER = 2
"""Publications under way at once: one is confirmed while the next is written."""
_SLACK = timedelta(seconds=5)
"""The adapter, which knows more, gives up first."""
_UNTOLD = Outcome(Verdict.UNKNOWN)


class Sending:
    """The publications of one stretch of a relay's work. No transaction is open while one is under way."""

    def __init__(self, relay: Relay, backlog: Backlog, waiting: WaitingStore, holding: Holding) -> None:
        capabilities = relay.broker.capabilities
        self.relay = relay
        self.clock = relay.database.clock
        self.backlog = backlog
        self.waiting = waiting
        self.holding = holding
        self.retries: deque[Due] = deque()
        self.retrying: dict[str, int] = {}
        """The messages that are in ``retries`` or out for another attempt, with their buckets."""
        self.under_way: set[asyncio.Task[None]] = set()
        self.paused_until = 0.0
        self._ordered = capabilities.ordered_prefix
        self._patient = capabilities.confirms_handling
        self._deadline = capabilities.deadline
        self._batch = min(relay.settings.batch, capabilities.max_batch)
        self._trouble = 0

    def start(self) -> None:
        """Send whatever may go out now."""
        if self._ordered and (self.retries or self.backlog.has_lonely):
            # One message all by itself: a transport that batches must not blame it for its neighbours.
            if not self.under_way:
                self._spawn(
                    self._retry(self.retries.popleft()) if self.retries else self._publish(self.backlog.next_lonely())
                )
            return
        # A broker that confirms handling may take long over one message; the others do not wait for it.
        most = self.relay.settings.read_ahead if self._patient else _TOGETHER
        while self.retries and len(self.under_way) < most:
            self._spawn(self._retry(self.retries.popleft()))
        while self.backlog.ready and len(self.under_way) < most:
            self._spawn(self._publish(self.backlog.next_batch(self._batch, self.relay.settings.max_bytes)))

    def collect(self) -> None:
        """Forget what has ended; raises what it raised."""
        for task in [task for task in self.under_way if task.done()]:
            self.under_way.discard(task)
            task.result()

    async def end(self, grace: float) -> None:
        """Wait a while for outcomes, because each one that comes spares a duplicate; then give up the rest."""
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=grace)
        for task in self.under_way:
            task.cancel()
        await asyncio.gather(*self.under_way, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.under_way.add(task)
        task.add_done_callback(lambda _: self.relay.changed.set())

    def try_again(self, claimed: Sequence[Due]) -> None:
        """Give failing messages another attempt; those whose attempts were used up in a crash are dead already."""
        for due in claimed:
            if due.dead:
                self.relay.hooks.dead(due.row.message, None, "attempts used up")
                self._let_go(due)
            else:
                self.retrying[due.row.message.id] = due.row.bucket
                self.retries.append(due)

    async def _publish(self, rows: Sequence[Row]) -> None:
        if self._ordered:  # what became of a lane's messages is known only of all together
            self._conclude(rows, await self._outcomes(rows))
            return
        untold = {row.message.id: row for row in rows}

        def told(outcomes: Mapping[str, Outcome]) -> None:
            # Each row is a lane of its own here, so its outcome can be acted on as soon as it is told.
            early = [untold.pop(message_id) for message_id in outcomes if message_id in untold]
            self._conclude(early, outcomes)

        outcomes = await self._outcomes(rows, told)
        self._conclude(list(untold.values()), outcomes)

    async def _outcomes(
        self, rows: Sequence[Row], told: Callable[[Mapping[str, Outcome]], None] | None = None
    ) -> Mapping[str, Outcome]:
        messages = [row.message for row in rows]
        outcomes: dict[str, Outcome] = {}
        within = None if self._patient else (self._deadline + _SLACK).total_seconds()
        with self.relay.hooks.publishing(messages):
            try:
                async with asyncio.timeout(within):
                    async for some in self.relay.broker.publish(messages):
                        outcomes.update(some)
                        if told is not None:
                            told(some)
            except BrokerUnavailable as error:
                return dict.fromkeys((m.id for m in messages), Outcome(Verdict.UNAVAILABLE, error)) | outcomes
            except Exception as error:  # noqa: BLE001 - whatever an adapter raises, the rest is unknown
                logger.warning("publishing ended without an answer: %s", type(error).__name__)
                return dict.fromkeys((m.id for m in messages), Outcome(Verdict.UNKNOWN, error)) | outcomes
        return outcomes

    def _conclude(self, rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> None:
        if not rows:
            return
        found = self.backlog.conclude(rows, outcomes)
        if found.settled:
            self._trouble = 0
            self.relay.confirmed.extend(found.settled)
            messages = [row.message for row in found.settled]
            oldest = min([message.occurred_at for message in messages])
            self.relay.hooks.published(messages, self.clock.now() - oldest)
        for row, error in found.rejected:
            self.holding.fail(Failure(row, error, permanent=True))
        for row, error in found.doubtful:
            self.holding.fail(Failure(row, error, permanent=False))
        if found.trouble is not None:
            self._back_off(found.trouble, unavailable=found.unavailable)
        self.relay.changed.set()

    def _back_off(self, error: Exception, *, unavailable: bool) -> None:
        """Pause before sending again, a little longer each time in a row."""
        if unavailable and self._trouble == 0:
            self.relay.hooks.broker_unavailable(error)
        if self.clock.monotonic() < self.paused_until:
            return  # the same trouble, told of another message of the batch
        seconds = min(0.05 * 2**self._trouble, 15.0) * (0.5 + self.relay.random.random() / 2)
        self._trouble = min(self._trouble + 1, 12)
        self.paused_until = self.clock.monotonic() + seconds

    async def give_back_unused(self) -> None:
        """Uncount the attempts that were claimed and not begun."""
        while self.retries:
            await self.waiting.give_back(self.holding.ownership.held, self.retries[0], timedelta(0))
            self.retrying.pop(self.retries.popleft().row.message.id, None)

    async def _retry(self, due: Due) -> None:
        try:
            await self._attempt(due)
        finally:
            self.retrying.pop(due.row.message.id, None)

    async def _attempt(self, due: Due) -> None:
        """Try a failing message once more; its attempt is counted already, and uncounted when nothing was decided."""
        before, held, row = self.backlog.confirmations, self.holding.ownership.held, due.row
        outcome = (await self._outcomes([row])).get(row.message.id, _UNTOLD)
        nothing_else_went = self.backlog.confirmations == before and self._trouble > 0
        if outcome.verdict is Verdict.CONFIRMED:
            self._trouble = 0
            self.backlog.confirmations += 1
            self.relay.hooks.published([row.message], self.clock.now() - row.message.occurred_at)
            self.relay.confirmed_again.append(due)
            await self.waiting.published(held, due)
            self.relay.confirmed_again.remove(due)
            self._let_go(due)
        elif outcome.verdict is Verdict.UNAVAILABLE or (outcome.verdict is Verdict.UNKNOWN and nothing_else_went):
            self._back_off(outcome.error or ConnectionError("no answer"), unavailable=True)
            await self.waiting.give_back(held, due, timedelta(seconds=1))
        else:
            permanent = outcome.verdict is Verdict.REJECTED
            dead = await self.waiting.conclude_due(held, due, outcome.error, permanent=permanent)
            self.relay.hooks.publish_failed(row.message, outcome.error, due.attempts)
            if dead:
                self.relay.hooks.dead(row.message, None, str(outcome.error))
                self._let_go(due)

    def _let_go(self, due: Due) -> None:
        if due.state == Waiting.RETRYING and due.row.message.key is not None:
            self.holding.begin_release(due.row.bucket, due.row.lane)
