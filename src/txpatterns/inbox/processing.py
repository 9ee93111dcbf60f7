"""What live deliveries and retries have in common: running a handler, and judging its failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import TypeVar

from sqlalchemy.engine import Connection

from txpatterns.causes import one_of, story_of
from txpatterns.correlation import caused_by, caused_by_none
from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import DecodeError, HandlerDefinitionError, HandlerTimeout
from txpatterns.execution import Execution, Origin, Result, Run
from txpatterns.execution.calls import is_interrupt
from txpatterns.hooks import HookList
from txpatterns.inbox.attempts import Attempts, Plan
from txpatterns.inbox.entries import Entry, WaitingEntry
from txpatterns.inbox.handlers import Handler, Handlers
from txpatterns.inbox.invocation import Given, Invocation
from txpatterns.inbox.lane_store import LaneStore
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed, Handling, HandlingBatch
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.inbox.standing import Standing
from txpatterns.messages import Event, Message
from txpatterns.outbox.emitting import Emitter
from txpatterns.retries import Decision, FailureRules, decide
from txpatterns.runtime.outages import Outages
from txpatterns.serialization import EventRegistry
from txpatterns.text import one_line

logger = logging.getLogger("txpatterns")

T = TypeVar("T")

_LOOK_AGAIN = timedelta(milliseconds=50)


@dataclass(slots=True)
class Processing:
    """The parts that a consumer's work needs, and the judgements about it."""

    database: Database
    registry: EventRegistry
    handlers: Handlers
    settings: ConsumerSettings
    hooks: HookList
    execution: Execution
    emitter: Emitter | None
    outages: Outages
    plain_outages: Outages
    """Of the engine for `def` handlers, where that is another one with a driver of its own."""
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

    def read(self, message: Message) -> Event:
        """Make the event of a message.

        Raises:
            DecodeError: it cannot be made, whatever a codec, an upcaster or a validator raised.
        """
        try:
            return self.registry.read(message)
        except DecodeError:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise DecodeError(f"Message {message.id} cannot be read: {type(error).__name__}") from error

    async def run(
        self, handler: Handler, event: Event, entry: Entry, opening: Callable[[Connection], bool], attempt: int
    ) -> Result:
        """Run a handler until something has come of it.

        A handler that committed by itself has come to an end (``ENDED``), whatever it raised then: its message counts
        as handled, so that no further attempt could do the rest.
        """
        message = entry.message
        make = partial(
            self.run_of,
            handler,
            lambda: [(event, message)],
            f"{one_line(message.type)} {one_line(message.id)}",
            opening=opening,
            stands=partial(self.lanes.claims.has, entry=entry),
            around=partial(self.around, Handling(message, entry.consumer, attempt)),
        )
        return await self.execution.settle(make, self.transact)

    def run_of(
        self,
        handler: Handler,
        given: Callable[[], Given],
        subject: str,
        *,
        opening: Callable[[Connection], bool],
        stands: Callable[[Connection], bool],
        around: Callable[[], AbstractContextManager[object]],
    ) -> Run:
        """Describe one run of a handler, for one message or several; ``subject`` names them."""
        call = Invocation(handler, given, self.emitter)
        return Run(
            Origin(handler.consumer, subject, handler.place, misfit=HandlerDefinitionError, over_limit=HandlerTimeout),
            call,
            handler.is_async,
            opening,
            stands,
            around,
            over=call.over,
            limit=self.limit_of(handler),
        )

    @contextmanager
    def around(self, handling: Handling | HandlingBatch) -> Iterator[None]:
        """Give what a handler runs in: the story of its message, and the listeners' spans."""
        story = caused_by(handling.message) if isinstance(handling, Handling) else caused_by_none()
        with story, self.hooks.within(handling):
            yield

    def tell(self, standing: Standing, entry: Entry) -> None:
        """Tell the hooks what became of a message, where that is worth telling."""
        if standing is Standing.HANDLED:
            self.hooks.tell(Handled(entry.message, entry.consumer))
        elif standing is Standing.DUPLICATE:
            self.hooks.tell(DuplicatePrevented(entry.message, entry.consumer))
        elif standing is Standing.REUSED:
            self.hooks.tell(Dead(entry.message, entry.consumer, "id reused"))

    async def bury_half_done(self, entry: Entry, error: BaseException, attempts: int) -> None:
        """Make a dead letter of a message whose handler committed by itself, and so lost what came after."""
        text = story_of(error)
        logger.error(
            "%s did half of its work for a message on %s: %s", entry.consumer, entry.message.topic, one_of(error)
        )
        bury = partial(self.lanes.bury, entry=entry, attempts=attempts, reason="half done", error=text)
        fresh = await self.transact(bury)
        self.hooks.tell(HandlerFailed(entry.message, entry.consumer, error, attempts))
        if fresh:
            self.hooks.tell(Dead(entry.message, entry.consumer, text))

    def limit_of(self, handler: Handler | None) -> timedelta | None:
        """Say how long a handler may take; None: as long as it likes."""
        return (handler.options.timeout if handler else None) or self.settings.handler_timeout

    def outages_of(self, handler: Handler) -> Outages:
        """Give who waits when the engine of this handler cannot be reached."""
        return self.outages if handler.is_async or not self.execution.can_await else self.plain_outages

    def judge(self, entry: Entry, handler: Handler | None, error: BaseException, attempts: int) -> Decision:
        """Decide what follows a failed attempt."""
        rules = handler.rules if handler else FailureRules()
        ladder = self.settings.policies.of(entry.message.topic).ladder
        return decide(error, attempts, rules=rules, ladder=ladder, random=self.random)

    def plan_of(self, waiting: WaitingEntry) -> Plan:
        """Say whether a waiting message may have another attempt, and when to look after it if its process dies."""
        message = waiting.entry.message
        policy = self.settings.policies.of(message.topic)
        handler = self.handlers.find(waiting.entry.consumer, message.type, message.topic)
        rules = handler.rules if handler else FailureRules()
        if waiting.attempts >= rules.most_attempts(policy.ladder):
            return Plan(None, policy.on_failure)
        return Plan(self.next_look(message.topic, waiting.attempts + 1), policy.on_failure)

    def next_look(self, topic: str, attempts: int) -> timedelta:
        """Say when a message is due again whose process died in this attempt."""
        # Not sooner than the takeover: a claim that still waits for a connection must not be claimed once more.
        wait = self.settings.policies.of(topic).ladder.delay(attempts, self.random)
        return max(wait or timedelta(0), self.settings.takeover)

    async def until_freed(self) -> None:
        """Wait until an attempt has ended here, or a moment, because it may be another process whose attempt ends."""
        await self.database.clock.wait(self.freed, _LOOK_AGAIN)

    def attempt_ended(self) -> None:
        """Wake the lanes that wait for a running attempt."""
        self.freed.set()
        self.freed.clear()
