"""Publishing: what goes out together, what apart and what alone.

What is in trouble is kept away from what flows: a topic that takes nothing or gives no answer is published apart, a
message that is in doubt alone, and neither holds up the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

from txpatterns.errors import BrokerUnavailable
from txpatterns.messages import Message
from txpatterns.outbox.moments import Published, Publishing
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.due import Due
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.holding_store import Failure
from txpatterns.outbox.relay.pauses import Pauses
from txpatterns.outbox.relay.publication import Publication
from txpatterns.outbox.relay.retrying import Retrying
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.relay.verdicts import UNTOLD
from txpatterns.transport import Outcome, Verdict

logger = logging.getLogger("txpatterns.relay")

_TOGETHER = 2
"""Publications under way at once: one is confirmed while the next is written."""
_APART = 16
"""Publications of one topic under way at once, when all but one give no answer."""
_ALONE, _ALONE_OF_A_TOPIC = 8, 2
"""Messages under way at once that are in doubt, or tried again."""
_SLACK = timedelta(seconds=5)
"""The adapter, which knows more, gives up first."""

Conclude = Callable[[Publication, Sequence[Row]], None]


class Sending:
    """The publications of one stretch of a relay's work. No transaction is open while one is under way."""

    def __init__(
        self,
        state: RelayState,
        backlog: Backlog,
        holding: Holding,
        pauses: Pauses,
        retrying: Retrying,
    ) -> None:
        capabilities = state.broker.capabilities
        self.state = state
        self.clock = state.clock
        self.backlog = backlog
        self.holding = holding
        self.pauses = pauses
        self.retrying = retrying
        self.topics = pauses.topics
        self.under_way: set[asyncio.Task[None]] = set()
        self._publications: list[Publication] = []
        self._alone: Counter[str] = Counter()
        self._patient = capabilities.confirms_handling
        self._deadline = capabilities.deadline
        self._batch = min(state.settings.batch, capabilities.max_batch)

    def start(self) -> None:
        """Send whatever may go out now."""
        # A broker that confirms handling may take long over one message; the others do not wait for it.
        most = self.state.settings.read_ahead if self._patient else _TOGETHER
        now = self.clock.monotonic()
        self._set_stragglers_apart(now)
        while self.backlog.turns.together and self._under_way(None) < most:
            self._spawn_publication(self.backlog.next_batch(self._batch, self.state.settings.max_bytes), None)
        self._shut_what_is_refused()
        for topic in self.topics or ():
            self._start_apart(topic, now)
        for topic in self.backlog.turns.alone:
            if self._has_place(topic, now):
                self._alone[topic] += 1
                self._spawn(self._publish_alone(self.backlog.next_alone(topic), topic))
        for due in self.retrying.take(lambda topic: self._has_place(topic, now)):
            self._alone[due.row.message.topic] += 1
            self._spawn(self._retry(due))

    def _start_apart(self, topic: str, now: float) -> None:
        """Send what may go out of a topic in trouble: one message, if it took nothing at the last try."""
        if topic not in self.backlog.shut_topics and self.backlog.is_crowded_by(topic):
            self.backlog.shut(topic, self.backlog.share)  # also while it rests, or the others would wait for that
        if not self.topics.is_due(topic, now):
            return
        if topic in self.backlog.shut_topics and not self.backlog.waits(topic) and not self._is_unfinished(topic):
            self.pauses.read_again(topic)
        size = 1 if self.topics.is_postponed(topic) else self._batch
        while self.backlog.turns.apart(topic) and self._under_way(topic) < 1 and len(self._of(topic)) < _APART:
            self._spawn_publication(self.backlog.next_batch(size, self.state.settings.max_bytes, apart=topic), topic)

    def _shut_what_is_refused(self) -> None:
        """Read nothing more of a topic that is refused faster than this can be written, before it fills the memory."""
        most = max(self.backlog.share // 2, 1)
        if len(self.holding.failing) + len(self.backlog.turns.alone) > most:
            stuck = self.holding.failing_topics() + Counter(self.backlog.turns.alone)
            for topic in stuck.keys() - self.backlog.shut_topics:
                if stuck[topic] > most:
                    self.topics.lags(topic)
                    self.backlog.shut(topic, most)

    def _is_unfinished(self, topic: str) -> bool:
        if self.holding.failing_topics()[topic]:
            return True
        return self._alone[topic] > 0 or any(topic in publication.topics for publication in self._publications)

    def _has_place(self, topic: str, now: float) -> bool:
        if self._patient:
            return True
        few = self._alone.total() < _ALONE and self._alone[topic] < _ALONE_OF_A_TOPIC
        return few and self.topics.is_due(topic, now)

    def _of(self, topic: str | None) -> list[Publication]:
        return [publication for publication in self._publications if publication.apart == topic]

    def _under_way(self, topic: str | None) -> int:
        """How many publications, of one topic or of all that flow, get answers or may still get them soon."""
        return sum(not publication.lags for publication in self._of(topic))

    def _set_stragglers_apart(self, now: float) -> None:
        """Publish apart what gives no answer: what else there is must not wait for it."""
        for publication in self._publications:
            if self.backlog.turns.has_any and not publication.lags and now >= publication.silent_at:
                publication.lags = True
                for topic in publication.topics:
                    self.pauses.lag(topic)

    def silent_at(self) -> float | None:
        """Say when the next publication will have been silent for too long, if anything waits for its end."""
        if not self.backlog.turns.has_any:
            return None
        return min((each.silent_at for each in self._publications if not each.lags), default=None)

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
        task.add_done_callback(lambda _: self.state.changed.set())

    def _spawn_publication(self, rows: Sequence[Row], apart: str | None) -> None:
        publication = Publication(rows, apart, self.clock.monotonic())
        self._publications.append(publication)
        self._spawn(self._publish(publication))

    async def _publish(self, publication: Publication) -> None:
        try:
            await self._outcomes(publication, self._conclude)
        finally:
            self._publications.remove(publication)
        self._conclude(publication, publication.rest())

    async def _publish_alone(self, rows: Sequence[Row], topic: str) -> None:
        publication = Publication(rows, topic, self.clock.monotonic())
        try:
            await self._outcomes(publication, self._conclude)
        finally:
            self._alone[topic] -= 1
        self._conclude(publication, publication.rest())

    async def _outcomes(self, publication: Publication, conclude: Conclude) -> None:
        """Publish, and conclude on the way the lanes of which all is told."""
        messages = [row.message for row in publication.rows]
        within = None if self._patient else (self._deadline + _SLACK).total_seconds()
        with self.state.hooks.within(Publishing(messages)):
            try:
                async with asyncio.timeout(within):
                    async for some in self.state.broker.publish(messages):
                        conclude(publication, publication.told(some, self.clock.monotonic()))
            except BrokerUnavailable as error:
                publication.not_told(Outcome(Verdict.UNAVAILABLE, error))
            except Exception as error:  # noqa: BLE001 - whatever an adapter raises, the rest is unknown
                logger.warning("publishing ended without an answer: %s", type(error).__name__)
                publication.not_told(Outcome(Verdict.UNKNOWN, error))

    def _conclude(self, publication: Publication, rows: Sequence[Row]) -> None:
        if not rows:
            return
        found = self.backlog.conclude(rows, publication.outcomes, alone=len(publication.rows) == 1)
        if found.settled:
            self.state.confirmed.extend(found.settled)
            self._confirmed([row.message for row in found.settled])
        for row, error in found.rejected:
            self.holding.fail(Failure(row, error, permanent=True))
        for row, error in found.doubtful:
            self.holding.fail(Failure(row, error, permanent=False))
        for topic, error in found.postponed.items():
            self.pauses.postpone(topic, error)
        for topic in sorted(found.unanswered):
            self.pauses.pause(topic)
        if found.unavailable is not None:
            self.pauses.back_off(found.unavailable)
        self.state.changed.set()

    def _confirmed(self, messages: Sequence[Message]) -> None:
        """The broker has taken something: it is not away, and topics flow of which nothing else gives no answer.

        One that is shut for what it was refused is first rid of that.
        """
        self.pauses.in_a_row = 0
        age = self.clock.now() - min([message.occurred_at for message in messages])
        self.state.hooks.tell(Published(messages, age))
        if self.topics or self.state.postponed:
            shut = self.holding.failing_topics().keys() & self.backlog.shut_topics
            lagging = {topic for publication in self._publications if publication.lags for topic in publication.topics}
            self.pauses.flow({message.topic for message in messages} - lagging - shut)

    async def _retry(self, due: Due) -> None:
        """Try a failing message once more; its attempt is counted already."""
        row, held, before = due.row, self.state.ownership.held, self.state.doubts.confirmations
        publication = Publication([row], row.message.topic, self.clock.monotonic())
        try:
            await self._outcomes(publication, lambda publication, rows: None)
            outcome = publication.outcomes.get(row.message.id, UNTOLD)
            nothing_else_went = self.state.doubts.confirmations == before and self.pauses.in_a_row > 0
            if outcome.verdict is Verdict.CONFIRMED:
                self.state.doubts.confirmations += 1
                self._confirmed([row.message])
            await self.retrying.conclude(held, due, outcome, nothing_else_went=nothing_else_went)
        finally:
            self._alone[row.message.topic] -= 1
            self.retrying.forget(due)
