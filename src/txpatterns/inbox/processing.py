"""What live deliveries and retries have in common: running a handler, and judging its failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import TypeVar

from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.errors import TransactionEnded
from txpatterns.hooks import Hooks
from txpatterns.inbox.attempts import Attempts, Plan
from txpatterns.inbox.decisions import Decision, FailureRules, decide, describe_error
from txpatterns.inbox.entries import Entry, Waiting
from txpatterns.inbox.execution import Came, Execution, Result, Run
from txpatterns.inbox.handlers import Handler, Handlers
from txpatterns.inbox.lane_store import LaneStore
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.messages import Event
from txpatterns.runtime.outages import Outages
from txpatterns.serialization import EventRegistry
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

T = TypeVar("T")

_REPEATS = 5


@dataclass(slots=True)
class Processing:
    """The parts that a consumer's work needs, and the two judgements about it."""

    database: Database
    registry: EventRegistry
    handlers: Handlers
    settings: ConsumerSettings
    hooks: Hooks
    execution: Execution
    outages: Outages
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Pulses when an attempt in this process has ended, for the lanes that wait for it."""
    random: Random = field(default_factory=Random)
    lanes: LaneStore = field(init=False)
    attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = LaneStore(self.database)
        self.attempts = Attempts(self.database, self.lanes)

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction of the library's own; an outage is waited out.

        Raises:
            Stopped: the consumer stops while the database is away.
        """
        return await self.outages.insist(lambda: self.database.transact(work), while_=may_pass)

    async def run(
        self, handler: Handler, event: Event, entry: Entry, opening: Callable[[Connection], bool], attempt: int
    ) -> Result:
        """Run a handler; what the database gave up for another transaction's sake runs again at once, uncounted.

        A handler that committed by itself has come to an end (``ENDED``), whatever it raised then: its message counts
        as handled, so that no further attempt could do the rest.
        """
        around = partial(self.hooks.handling, entry.message, entry.consumer, attempt)
        stands = partial(self.lanes.claims.has, entry=entry)
        run = Run(handler, event, entry.message, opening, stands, around)
        repeats = 0
        while True:
            result = await self.execution.run(run)
            if result.error is not None and result.ended and await self.transact(stands):
                return Result(Came.ENDED, _ended_by(result.error))
            if result.came is not Came.REPEAT:
                return result
            if repeats == _REPEATS:
                return Result(Came.FAILED, result.error)
            repeats += 1

    async def bury_half_done(self, entry: Entry, error: Exception, attempts: int) -> None:
        """Make a dead letter of a message whose handler committed by itself, and so lost what came after."""
        text = describe_error(error)
        logger.error("%s did half of its work for a message on %s: %s", entry.consumer, entry.message.topic, text)
        bury = partial(self.lanes.bury, entry=entry, attempts=attempts, reason="half done", error=text)
        fresh = await self.transact(bury)
        self.hooks.handler_failed(entry.message, entry.consumer, error, attempts)
        if fresh:
            self.hooks.dead(entry.message, entry.consumer, text)

    def judge(self, entry: Entry, handler: Handler | None, error: BaseException, attempts: int) -> Decision:
        """Decide what follows a failed attempt."""
        rules = handler.rules if handler else FailureRules()
        ladder = self.settings.policies.of(entry.message.topic).ladder
        return decide(error, attempts, rules=rules, ladder=ladder, random=self.random)

    def plan_of(self, waiting: Waiting) -> Plan:
        """Say whether a waiting message may have another attempt, and when to look after it if its process dies."""
        message = waiting.entry.message
        policy = self.settings.policies.of(message.topic)
        handler = self.handlers.find(waiting.entry.consumer, message.type)
        rules = handler.rules if handler else FailureRules()
        if waiting.attempts >= rules.most_attempts(policy.ladder):
            return Plan(None, policy.on_failure)
        return Plan(self.next_look(message.topic, waiting.attempts + 1), policy.on_failure)

    def next_look(self, topic: str, attempts: int) -> timedelta:
        """Say when a message is due again whose process died in this attempt."""
        # Not sooner than the takeover: a claim that still waits for a connection must not be claimed once more.
        wait = self.settings.policies.of(topic).ladder.delay(attempts, self.random)
        return max(wait or timedelta(0), self.settings.takeover)

    def attempt_ended(self) -> None:
        """Wake the lanes that wait for a running attempt."""
        self.freed.set()
        self.freed.clear()


def _ended_by(error: Exception) -> TransactionEnded:
    if isinstance(error, TransactionEnded):
        return error
    ended = TransactionEnded(f"The handler ended its transaction by itself, and failed then: {error_line(error)}.")
    ended.__cause__ = error
    return ended
