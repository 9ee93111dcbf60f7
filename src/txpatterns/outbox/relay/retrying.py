"""Failing messages that were claimed for another attempt, and what such an attempt comes to.

A claim counts as an attempt, so that a process that dies of it has made it: what decided nothing is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from txpatterns.coordination import Held
from txpatterns.deadletters.moments import Dead
from txpatterns.outbox.moments import PublishFailed
from txpatterns.outbox.relay.due import Due, DueStore
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.pauses import Pauses
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.schema import Waiting
from txpatterns.transport import Outcome, Verdict

_AGAIN = timedelta(seconds=1)


class Retrying:
    """The failing messages that one stretch of a relay's work tries again."""

    def __init__(self, state: RelayState, store: DueStore, holding: Holding, pauses: Pauses) -> None:
        self.state = state
        self.store = store
        self.holding = holding
        self.pauses = pauses
        self.queue: deque[Due] = deque()
        self.buckets: dict[str, int] = {}
        """The messages that are in ``queue`` or out for another attempt, with their buckets."""

    def add(self, claimed: Sequence[Due]) -> None:
        """Give failing messages another attempt; those whose attempts were used up in a crash are dead already."""
        for due in claimed:
            if due.dead:
                self.state.hooks.tell(Dead(due.row.message, None, "attempts used up"))
                self._let_go(due)
            else:
                self.buckets[due.row.message.id] = due.row.bucket
                self.queue.append(due)

    def take(self, may_go: Callable[[str], bool]) -> Iterator[Due]:
        """Give those whose topics may go out now; the others stay."""
        for _ in range(len(self.queue)):
            due = self.queue.popleft()
            if may_go(due.row.message.topic):
                yield due
            else:
                self.queue.append(due)

    def forget(self, due: Due) -> None:
        """The attempt is over: the message may be claimed again."""
        self.buckets.pop(due.row.message.id, None)

    async def conclude(self, held: Held, due: Due, outcome: Outcome, *, nothing_else_went: bool) -> None:
        """Write down what an attempt came to, which began under these leases; uncount it where it decided nothing."""
        topic = due.row.message.topic
        if outcome.verdict is Verdict.CONFIRMED:
            await self._published(due)
        elif outcome.verdict is Verdict.POSTPONED:
            seconds = self.pauses.postpone(topic, outcome.error)
            await self.store.give_back(held, due, timedelta(seconds=seconds))
        elif outcome.verdict is Verdict.UNAVAILABLE:
            self.pauses.back_off(outcome.error or ConnectionError("no answer"))
            await self.store.give_back(held, due, _AGAIN)
        elif outcome.verdict is Verdict.UNKNOWN and nothing_else_went:
            self.pauses.pause(topic)
            await self.store.give_back(held, due, _AGAIN)
        else:
            await self._failed(held, due, outcome)

    async def _published(self, due: Due) -> None:
        self.state.confirmed_again.append(due)
        await self.store.published(self.state.ownership.held, due)
        self.state.confirmed_again.remove(due)
        self._let_go(due)

    async def _failed(self, held: Held, due: Due, outcome: Outcome) -> None:
        message = due.row.message
        permanent = outcome.verdict is Verdict.REJECTED
        dead = await self.store.conclude_due(held, due, outcome.error, permanent=permanent)
        self.state.hooks.tell(PublishFailed(message, outcome.error, due.attempts))
        if dead:
            self.state.hooks.tell(Dead(message, None, str(outcome.error)))
            self._let_go(due)

    def _let_go(self, due: Due) -> None:
        if due.state == Waiting.RETRYING and due.row.message.key is not None:
            self.holding.begin_release(due.row.bucket, due.row.lane)

    async def settle(self) -> None:
        """Note what was confirmed before an outage; what another relay has now, it will repeat."""
        retried, held = self.state.confirmed_again, self.state.ownership.held
        while retried:
            if retried[0].row.bucket in held:
                await self.store.published(held, retried[0])
            del retried[0]

    async def give_back_unused(self) -> None:
        """Uncount the attempts that were claimed and not begun."""
        while self.queue:
            await self.store.give_back(self.state.ownership.held, self.queue[0], timedelta(0))
            self.forget(self.queue.popleft())
