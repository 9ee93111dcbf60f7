"""What happens to a delivery from the broker until it is acknowledged."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial

from txpatterns.causes import story_of, summary_of
from txpatterns.database.dialects import may_pass
from txpatterns.errors import DecodeError
from txpatterns.execution import Came, Result
from txpatterns.inbox.entries import Entry, Waiting, entry_of, solitary_lane, storable
from txpatterns.inbox.handlers import Handler
from txpatterns.inbox.lane_store import Admission, First
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.retries import Retries
from txpatterns.inbox.schema import State
from txpatterns.inbox.suspicion import Suspicion
from txpatterns.messages import Event, Message, describe
from txpatterns.retries import Again, OnFailure
from txpatterns.runtime.outages import Stopped
from txpatterns.transport import Delivery

logger = logging.getLogger("txpatterns")

_TRIES = 5
_TOLD = 1000
_LOOK_AGAIN = timedelta(milliseconds=50)


class Deliveries:
    """Hands a delivery to every handler of its type, and acknowledges it when each has committed or stored it."""

    def __init__(self, processing: Processing, retries: Retries, suspicion: Suspicion) -> None:
        self._processing = processing
        self._retries = retries
        self._suspicion = suspicion
        self._unhandled: set[str] = set()

    async def handle(self, delivery: Delivery) -> None:
        """Bring one delivery to its end. Raises Stopped when the consumer stops before that."""
        named = self._named(delivery.message)
        message = storable(named)
        await self._settle(delivery, message, malformed=message is not named)
        try:
            await delivery.ack()
        except Exception as error:  # noqa: BLE001 - it comes again, and is found to be handled
            logger.info("an acknowledgement on %s failed: %r", message.topic, error)

    def _named(self, came: Message) -> Message:
        """Give it the id and type that its body has, where its headers have none; a type that is malformed stays."""
        named = self._processing.registry.named(came)
        if named.type != came.type and storable(came).type != came.type:
            return named._replace(type=came.type)
        return named

    async def _settle(self, delivery: Delivery, message: Message, *, malformed: bool) -> None:
        """Handle, store or bury a message, and bury it also when that fails each time in a way nobody foresaw."""
        tries = 0
        while True:
            try:
                await self._deal_with(delivery, message, malformed=malformed)
                return
            except Stopped:
                raise
            except Exception as error:
                tries += 1
                if may_pass(error):
                    raise
                if tries == _TRIES:
                    logger.exception("a message on %s cannot be dealt with; it is a dead letter", message.topic)
                    await self._bury(message, "unexpected", story_of(error))
                    return
                await self._processing.outages.pause(error)

    async def _deal_with(self, delivery: Delivery, message: Message, *, malformed: bool) -> None:
        if malformed:
            await self._bury(message, "malformed", "Its id, type, key or content type cannot be stored as it is.")
        elif not message.type or self._processing.handlers.of(message.type, message.topic):
            await self._read(delivery, message)
        else:
            self._ignore(message.type)

    async def _read(self, delivery: Delivery, message: Message) -> None:
        try:
            event = self._processing.read(message)
        except DecodeError as error:
            await self._bury(message, "undecodable", summary_of(error))
            return
        type_ = describe(type(event)).type
        if message.type != type_:  # its producer names the type only in the body
            message = message._replace(type=type_)
        suspect = self._suspicion.suspects(delivery)
        of_type = self._processing.handlers.of(type_, message.topic)
        handlers = [handler for handler in of_type if handler.event is type(event)]
        for handler in handlers:
            await self._deal(handler, event, entry_of(handler.consumer, message), suspect)
        self._suspicion.clear(delivery)
        if not handlers:
            self._ignore(type_)

    async def _deal(self, handler: Handler, event: Event, entry: Entry, suspect: bool) -> None:
        """Bring a message to its end at one handler: its effect is committed, or it is stored, or dead."""
        processing = self._processing
        rounds = 0
        while True:
            error: BaseException | None = None
            if not suspect:
                result = await processing.outages_of(handler).insist(partial(self._try, handler, event, entry))
                if result.came is Came.DONE:
                    processing.hooks.handled(entry.message, entry.consumer)
                    return
                error = result.error
                if result.came is Came.ENDED and error is not None:
                    await processing.bury_half_done(entry, error, 1)
                    return
            if suspect:
                admission = await self._attempt_written_first(entry)
            elif error is not None:
                admission = await self._store_failure(handler, entry, error)
            else:
                admission = await self._admit(entry, None)
            if admission is not Admission.AGAIN:
                self._tell(admission, entry)
                return
            rounds += 1
            if rounds > 1:
                await processing.database.clock.wait(processing.freed, _LOOK_AGAIN)
            if processing.outages.stopping.is_set():
                raise Stopped

    async def _try(self, handler: Handler, event: Event, entry: Entry) -> Result:
        processing = self._processing
        opening = partial(processing.lanes.claims.take, entry=entry, limit=processing.limit_of(handler))
        async with processing.slots:
            result = await processing.run(handler, event, entry, opening, 1)
        if result.came is Came.OUTAGE and result.error is not None:
            raise result.error
        return result

    async def _admit(self, entry: Entry, first: First | None) -> Admission:
        processing = self._processing
        admit = partial(processing.lanes.admit, entry=entry, first=first)
        admission, _ = await processing.transact(admit)
        return admission

    async def _attempt_written_first(self, entry: Entry) -> Admission:
        """Store a suspect with its attempt counted, then make that attempt: if it kills us, the count remains."""
        processing = self._processing
        first = First(State.RETRYING, 1, processing.next_look(entry.message.topic, 1))
        admit = partial(processing.lanes.admit, entry=entry, first=first)
        admission, row = await processing.transact(admit)
        if row is not None:
            async with processing.slots:
                await self._retries.attempt(Waiting(row, entry, 1, State.RETRYING))
            self._retries.wake()
        return admission

    async def _store_failure(self, handler: Handler, entry: Entry, error: BaseException) -> Admission:
        processing = self._processing
        on_failure = processing.settings.policies.of(entry.message.topic).on_failure
        decision, text = processing.judge(entry, handler, error, 1), story_of(error)
        if isinstance(decision, Again):
            state = State.RETRYING
            if on_failure is OnFailure.SKIP:
                state, lane = State.SKIPPED, solitary_lane(entry.message.topic, entry.message.id)
                entry = replace(entry, lane=lane)
            admission = await self._admit(entry, First(state, 1, decision.after, text))
            if admission in (Admission.FIRST, Admission.BEHIND):
                processing.hooks.handler_failed(entry.message, entry.consumer, error, 1)
            return admission
        bury = partial(
            processing.lanes.bury_first,
            entry=entry,
            reason=decision.reason,
            error=text,
            park=on_failure is OnFailure.PARK,
        )
        known = await processing.transact(bury)
        if known is None:
            processing.hooks.handler_failed(entry.message, entry.consumer, error, 1)
            processing.hooks.dead(entry.message, entry.consumer, text)
        return known or Admission.STORED

    async def _bury(self, message: Message, reason: str, error: str) -> None:
        processing = self._processing
        entry = entry_of(processing.handlers.group, message)
        bury = partial(processing.lanes.bury_unread, entry=entry, reason=reason, error=error)
        if await processing.transact(bury):
            processing.hooks.dead(message, entry.consumer, error)

    def _tell(self, admission: Admission, entry: Entry) -> None:
        hooks = self._processing.hooks
        if admission is Admission.DUPLICATE:
            hooks.duplicate_prevented(entry.message, entry.consumer)
        elif admission is Admission.REUSED:
            hooks.dead(entry.message, entry.consumer, "id reused")

    def _ignore(self, type_: str) -> None:
        if type_ not in self._unhandled and len(self._unhandled) < _TOLD:  # a stranger may invent types without end
            self._unhandled.add(type_)
            logger.info(
                "%s has no handler for %r; such messages are acknowledged", self._processing.handlers.group, type_
            )
