"""What happens to a delivery from the broker until it is acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from txpatterns.causes import story_of, summary_of
from txpatterns.database.dialects import may_pass
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import DecodeError
from txpatterns.execution import Came, Result
from txpatterns.inbox.due_attempts import DueAttempts
from txpatterns.inbox.entries import Entry, WaitingEntry, entry_of, solitary_lane, storable
from txpatterns.inbox.handlers import Handler
from txpatterns.inbox.lane_store import First
from txpatterns.inbox.moments import HandlerFailed
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.schema import State
from txpatterns.inbox.standing import Standing
from txpatterns.inbox.suspicion import Suspicion
from txpatterns.messages import Event, Message, describe
from txpatterns.retries import Again, OnFailure
from txpatterns.runtime.outages import Stopped
from txpatterns.transport import Delivery

logger = logging.getLogger("txpatterns")

_TRIES = 5
_TOLD = 1000
_OLD = frozenset((Standing.DUPLICATE, Standing.STORED))
"""What says that a message had come to its end before, so that the process may have died in one that follows it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A delivery that can be read, with the handlers that take it."""

    delivery: Delivery
    message: Message
    event: Event
    takers: Sequence[Handler]


class Deliveries:
    """Hands a delivery to every handler of its type, and acknowledges it when each has committed or stored it."""

    def __init__(self, processing: Processing, due_attempts: DueAttempts, suspicion: Suspicion) -> None:
        self._processing = processing
        self._due_attempts = due_attempts
        self._suspicion = suspicion
        self._unhandled: set[str] = set()

    async def handle(self, delivery: Delivery) -> None:
        """Bring one delivery to its end: it is handled, stored or buried, and then acknowledged.

        What fails each time in a way nobody foresaw is buried, too; outages are waited out. Raises Stopped when the
        consumer stops before the end.
        """
        outages = self._processing.outages
        message, failures, cause = storable(delivery.message), 0, ""
        while True:
            try:
                if failures == _TRIES:
                    await self._bury(message, "unexpected", cause)
                else:
                    named = self._named(delivery.message)
                    message = storable(named)
                    await self._settle(delivery, message, malformed=message is not named)
                break
            except Stopped:
                raise
            except Exception as error:
                if failures < _TRIES:
                    failures, cause = (0, "") if may_pass(error) else (failures + 1, story_of(error))
                    if failures == _TRIES:
                        logger.exception("a message on %s cannot be dealt with; it is a dead letter", message.topic)
                        continue
                await outages.pause(error)
        outages.fine()
        await self.done(delivery)

    async def done(self, delivery: Delivery) -> None:
        """Acknowledge a delivery that has come to its end."""
        try:
            await delivery.ack()
        except Exception as error:  # noqa: BLE001 - it comes again, and is found to be handled
            logger.info("an acknowledgement on %s failed: %r", delivery.message.topic, error)

    def ready(self, delivery: Delivery) -> Ready | None:
        """Read a delivery for a handler of batches; None where it is to be handled by itself."""
        if self._suspicion.suspects(delivery):
            return None
        try:
            message = self._named(delivery.message)
            if storable(message) is not message or not self._may_go_together(message):
                return None
            found = self._read(delivery, message)
        except Exception:  # noqa: BLE001 - it is handled by itself, and there it is told why it cannot be
            return None
        return found if any(handler.batch for handler in found.takers) else None

    def _may_go_together(self, message: Message) -> bool:
        """Whether a handler of batches may take it; where only its body names its type, that is not known yet."""
        return not message.type or any(h.batch for h in self._processing.handlers.of(message.type, message.topic))

    def _named(self, came: Message) -> Message:
        """Give it the id and type that its body has, where its headers have none; a type that is malformed stays."""
        named = self._processing.registry.named(came)
        if named.type != came.type and storable(came).type != came.type:
            return named._replace(type=came.type)
        return named

    async def _settle(self, delivery: Delivery, message: Message, *, malformed: bool) -> None:
        """Bury a message that cannot be read, and bring every other one to its end at each of its handlers."""
        handlers = self._processing.handlers
        if malformed:
            await self._bury(message, "malformed", "Its id, type, key or content type cannot be stored as it is.")
            return
        if message.type and not handlers.of(message.type, message.topic):
            self._ignore(message.type)
            return
        try:
            ready = self._read(delivery, message)
        except DecodeError as error:
            await self._bury(message, "undecodable", summary_of(error))
            return
        if not ready.takers:
            self._ignore(ready.message.type)
        suspect = self._suspicion.suspects(delivery)
        entries = [(handler, entry_of(handler.consumer, ready.message)) for handler in ready.takers]
        standings = [await self.deal(handler, ready.event, entry, suspect=suspect) for handler, entry in entries]
        if not _OLD.issuperset(standings):
            self._suspicion.clear(delivery)

    def _read(self, delivery: Delivery, message: Message) -> Ready:
        event = self._processing.read(message)
        type_ = describe(type(event)).type
        if message.type != type_:  # its producer names the type only in the body
            message = message._replace(type=type_)
        takers = [h for h in self._processing.handlers.of(type_, message.topic) if h.event is type(event)]
        return Ready(delivery, message, event, takers)

    async def deal(self, handler: Handler, event: Event, entry: Entry, *, suspect: bool) -> Standing:
        """Bring a message to its end at one handler; looks again for as long as its lane is changing hands."""
        processing, looks = self._processing, 0
        while True:
            standing = await (self._attempt_stored(entry) if suspect else self._attempt(handler, event, entry))
            if standing is not Standing.AGAIN:
                processing.tell(standing, entry)
                return standing
            looks += 1
            if looks > 1:
                await processing.until_freed()
            if processing.outages.stopping.is_set():
                raise Stopped

    async def _attempt(self, handler: Handler, event: Event, entry: Entry) -> Standing:
        """Run the handler, unless something of its lane waits; what has no effect now is stored, or is dead."""
        result = await self._processing.outages_of(handler).insist(partial(self._run, handler, event, entry))
        return await self.conclude(handler, entry, result)

    async def conclude(self, handler: Handler, entry: Entry, result: Result) -> Standing:
        """Store what has no effect now, or make a dead letter of it; says what became of it."""
        if result.came is Came.DONE:
            return Standing.HANDLED
        if result.error is None:
            return await self._admit(entry, None)
        if result.came is Came.ENDED:
            await self._processing.bury_half_done(entry, result.error, 1)
            return Standing.DEAD
        return await self._store_failure(handler, entry, result.error)

    async def _run(self, handler: Handler, event: Event, entry: Entry) -> Result:
        processing = self._processing
        opening = partial(processing.lanes.claims.take, entry=entry, limit=processing.limit_of(handler))
        async with processing.slots:
            result = await processing.run(handler, event, entry, opening, 1)
        if result.came is Came.OUTAGE and result.error is not None:
            raise result.error
        return result

    async def _admit(self, entry: Entry, first: First | None) -> Standing:
        processing = self._processing
        admit = partial(processing.lanes.admit, entry=entry, first=first)
        standing, row = await processing.transact(admit)
        if row is not None:
            self._due_attempts.hint()
        return standing

    async def _attempt_stored(self, entry: Entry) -> Standing:
        """Store a suspect with its attempt counted, then make that attempt: if it kills us, the count remains."""
        processing = self._processing
        first = First(State.RETRYING, 1, processing.next_look(entry.message.topic, 1))
        admit = partial(processing.lanes.admit, entry=entry, first=first)
        standing, row = await processing.transact(admit)
        if row is not None:
            async with processing.slots:
                await self._due_attempts.attempt(WaitingEntry(row, entry, 1, State.RETRYING))
            self._due_attempts.wake()
        return standing

    async def _store_failure(self, handler: Handler, entry: Entry, error: BaseException) -> Standing:
        processing = self._processing
        on_failure = processing.settings.policies.of(entry.message.topic).on_failure
        decision, text = processing.judge(entry, handler, error, 1), story_of(error)
        if isinstance(decision, Again):
            state = State.RETRYING
            if on_failure is OnFailure.SKIP:
                state, lane = State.SKIPPED, solitary_lane(entry.message.topic, entry.message.id)
                entry = replace(entry, lane=lane)
            standing = await self._admit(entry, First(state, int(decision.counts), decision.after, text))
            if standing in (Standing.FIRST, Standing.BEHIND):
                processing.hooks.tell(HandlerFailed(entry.message, entry.consumer, error, 1))
            return standing
        bury = partial(
            processing.lanes.bury_first,
            entry=entry,
            reason=decision.reason,
            error=text,
            park=on_failure is OnFailure.PARK,
        )
        known = await processing.transact(bury)
        if known is not None:
            return known
        processing.hooks.tell(HandlerFailed(entry.message, entry.consumer, error, 1))
        processing.hooks.tell(Dead(entry.message, entry.consumer, text))
        return Standing.DEAD

    async def _bury(self, message: Message, reason: str, error: str) -> None:
        processing = self._processing
        entry = entry_of(processing.handlers.group, message)
        bury = partial(processing.lanes.bury_unread, entry=entry, reason=reason, error=error)
        if await processing.transact(bury):
            processing.hooks.tell(Dead(message, entry.consumer, error))

    def _ignore(self, type_: str) -> None:
        if type_ not in self._unhandled and len(self._unhandled) < _TOLD:  # a stranger may invent types without end
            self._unhandled.add(type_)
            logger.info(
                "%s has no handler for %r; such messages are acknowledged", self._processing.handlers.group, type_
            )
