"""The retry worker: claims the attempts that are due, timed by the database, and makes them."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.causes import story_of, summary_of
from txpatterns.coordination import Hearing, Pace
from txpatterns.coordination.wakeup import INBOX
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import DecodeError
from txpatterns.execution import Came, Result
from txpatterns.inbox.attempts import DIED_IN_ATTEMPT
from txpatterns.inbox.entries import WaitingEntry
from txpatterns.inbox.handlers import Handler
from txpatterns.inbox.moments import HandlerFailed
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.queues import WAITING
from txpatterns.inbox.standing import Standing
from txpatterns.retries import Dead as GiveUp
from txpatterns.runtime.moments import CONSUMER, Idle
from txpatterns.runtime.outages import Outages, Stopped

logger = logging.getLogger("txpatterns")

_AT_ONCE = 16
_NOW, _MOMENT = timedelta(0), timedelta(milliseconds=100)


class DueAttempts:
    """Claims what is due and runs it, as many at a time as there are free slots."""

    def __init__(self, processing: Processing, interval: timedelta, outages: Outages) -> None:
        self._processing = processing
        self._outages = outages
        self._interval = interval
        self._wake = asyncio.Event()
        self._hint = asyncio.Event()
        self._pace = Pace(processing.database.clock)
        self._running: set[asyncio.Task[None]] = set()
        self._busy: set[int] = set()
        self._claiming = asyncio.Lock()

    @property
    def in_flight(self) -> int:
        """How many attempts run now."""
        return len(self._running)

    async def work(self) -> None:
        """Make due attempts until the consumer stops."""
        processing, stopping = self._processing, self._processing.outages.stopping
        is_idle, until_due = True, _NOW
        while not stopping.is_set():
            self._wake.clear()
            self._hint.clear()
            # A look costs one statement, a claim a transaction: it is made where a look has found something.
            until_due = await self._until_due() if is_idle else _NOW
            is_idle = until_due > _NOW or await self.start_due() == 0
            if is_idle:
                self._outages.fine()
                processing.hooks.tell(Idle(CONSUMER))
                await self._rest(until_due)

    async def _until_due(self) -> timedelta:
        """Say how long until the next attempt is due that can be seen now; at most the longest time between two looks.

        Not less than a moment: attempts that come due one after the other are not looked for one by one.
        """
        processing, interval = self._processing, self._interval
        longest = timedelta(seconds=self._pace.between_looks(interval.total_seconds()))
        ahead = partial(processing.attempts.until_due, consumers=processing.handlers.consumers, within=longest)
        found = await processing.database.read(ahead)
        if found is None:
            return longest
        return max(found, min(_MOMENT, interval)) if found > _NOW else _NOW

    async def _rest(self, until_due: timedelta) -> None:
        """Wait until the next look is due. What is hinted at meanwhile is looked for after the settings' interval.

        Where something is due and could not be claimed, somebody else has it locked.
        """
        clock, until = self._processing.database.clock, until_due if until_due > _NOW else self._interval
        began = clock.monotonic()
        if await clock.wait(self._hint, until):
            gone = timedelta(seconds=clock.monotonic() - began)
            await clock.wait(self._wake, min(until, self._interval) - gone)

    async def _is_due(self, moment: datetime | None = None) -> bool:
        processing = self._processing
        consumers = processing.handlers.consumers
        return await processing.database.read(partial(processing.attempts.has_due, consumers=consumers, moment=moment))

    async def make_due(self) -> int:
        """Make the attempts that are due now, up to the number of free slots, and wait for them; says how many."""
        before = set(self._running)
        count = await self.start_due()
        await asyncio.gather(*(self._running - before))
        return count

    async def start_due(self) -> int:
        """Claim what is due and start it; says how many messages were dealt with."""
        processing = self._processing
        await processing.slots.acquire()
        taken = 1
        while taken < _AT_ONCE and not processing.slots.locked():
            await processing.slots.acquire()
            taken += 1
        started = 0
        try:
            claim = partial(
                processing.attempts.claim,
                consumers=processing.handlers.consumers,
                most=taken,
                plan_of=processing.plan_of,
                busy=frozenset(self._busy),
            )
            async with self._claiming:
                if processing.outages.stopping.is_set():
                    return 0
                claimed, dead = await processing.database.transact(claim)
                self._outages.fine()
                for waiting in claimed:
                    self._busy.add(waiting.id)
                    task = asyncio.create_task(self._attempt_in_slot(waiting), name=f"retry {waiting.entry.consumer}")
                    self._running.add(task)
                    task.add_done_callback(partial(self._ended, waiting))
                    started += 1
        finally:
            for _ in range(taken - started):
                processing.slots.release()
        for waiting in dead:
            processing.hooks.tell(Dead(waiting.entry.message, waiting.entry.consumer, DIED_IN_ATTEMPT))
        return len(claimed) + len(dead)

    def wake(self) -> None:
        """Look for due messages now, or stop waiting."""
        self._wake.set()
        self._hint.set()

    def hint(self) -> None:
        """Something may be due sooner than the last look has shown."""
        self._hint.set()

    def listen(self, listener: Hearing) -> None:
        """Be told of what others make due, and look less often while that is known to arrive."""
        listener.on(INBOX, self.hint, sign=sa.select(*WAITING.signs))
        self._pace.follow(listener)

    async def caught_up(self, moment: datetime | None = None) -> bool:
        """Wait until every attempt that is due at a moment has been made, while ``work`` runs; or until it stops.

        Says whether there were any; without a moment, it is now.
        """
        processing, found = self._processing, False
        moment = moment or await processing.database.moment()
        while not processing.outages.stopping.is_set() and await self._is_due(moment):
            found = True
            self.wake()
            await processing.until_freed()
        async with self._claiming:
            running = set(self._running)
        if running:
            await asyncio.wait(running)
        return found

    async def finished(self) -> None:
        """Wait for the attempts that run, those included that are just being claimed."""
        async with self._claiming:
            pass
        while self._running:
            await asyncio.wait(set(self._running))

    async def cancel(self) -> None:
        """Cancel the attempts that run; each is due again after its step of the ladder."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def attempt(self, waiting: WaitingEntry) -> None:
        """Make one attempt that was claimed before; the caller holds a slot."""
        self._busy.add(waiting.id)
        try:
            await self._attempt(waiting)
        finally:
            self._busy.discard(waiting.id)

    async def _attempt(self, waiting: WaitingEntry) -> None:
        processing, entry = self._processing, waiting.entry
        handler = processing.handlers.find(entry.consumer, entry.message.type, entry.message.topic)
        limit = processing.limit_of(handler)
        known: Standing | None = None

        def opening(connection: Connection) -> bool:
            nonlocal known
            known = processing.attempts.begin(connection, waiting, limit)
            return known is None

        try:
            event = processing.read(entry.message)
        except DecodeError as error:
            await self._fail(waiting, handler, error)
            return
        if handler is None:
            await self._fail(waiting, None, DecodeError(f"{entry.consumer} handles no {type(event).__name__} now."))
            return
        result = await processing.run(handler, event, entry, opening, waiting.attempts)
        await self._conclude(waiting, handler, result, known)

    async def _attempt_in_slot(self, waiting: WaitingEntry) -> None:
        try:
            await self.attempt(waiting)
        except Stopped:
            return  # due again after its step of the ladder
        except Exception:
            logger.exception("an attempt of %s ended unexpectedly; it is due again", waiting.entry.consumer)

    def _ended(self, waiting: WaitingEntry, task: asyncio.Task[None]) -> None:
        """Give the slot back, also that of a task that was cancelled before it began."""
        self._running.discard(task)
        self._busy.discard(waiting.id)
        self._processing.slots.release()
        self._processing.attempt_ended()
        self.wake()

    async def _conclude(self, waiting: WaitingEntry, handler: Handler, result: Result, known: Standing | None) -> None:
        processing, entry = self._processing, waiting.entry
        match result.came:
            case Came.DONE:
                processing.outages_of(handler).fine()
                processing.tell(Standing.HANDLED, entry)
            case Came.REFUSED if known is not None:
                processing.tell(known, entry)
            case Came.OUTAGE:
                await processing.outages_of(handler).pause(result.error)
                give_back = partial(processing.attempts.give_back, waiting=waiting)
                await processing.transact(give_back)
            case Came.ENDED if result.error is not None:
                await processing.bury_half_done(entry, result.error, waiting.attempts)
            case _:
                assert result.error is not None
                await self._fail(waiting, handler, result.error)

    async def _fail(self, waiting: WaitingEntry, handler: Handler | None, error: BaseException) -> None:
        processing, entry, attempts = self._processing, waiting.entry, self._processing.attempts
        on_failure = processing.settings.policies.of(entry.message.topic).on_failure
        text = summary_of(error) if isinstance(error, DecodeError) else story_of(error)
        decision = processing.judge(entry, handler, error, waiting.attempts)
        if isinstance(error, DecodeError):
            decision = GiveUp("undecodable")
        if isinstance(decision, GiveUp):
            settle = partial(attempts.bury, waiting=waiting, reason=decision.reason, error=text, on_failure=on_failure)
        else:
            settle = partial(attempts.postpone, waiting=waiting, again=decision, error=text, on_failure=on_failure)
        latest = await processing.transact(settle)
        processing.hooks.tell(HandlerFailed(entry.message, entry.consumer, error, waiting.attempts))
        if latest and isinstance(decision, GiveUp):
            processing.hooks.tell(Dead(entry.message, entry.consumer, text))
