"""The background part that runs sagas: it claims those that are due, and lets a driver run each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Hearing, Leases, Membership, Pace
from txpatterns.coordination.leases import Census
from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.database.finishing import finish
from txpatterns.errors import LeaseLost, SagaDiverged
from txpatterns.execution import Execution
from txpatterns.hooks import HookList
from txpatterns.outbox import Outbox
from txpatterns.runtime.every import Every
from txpatterns.runtime.moments import Idle
from txpatterns.runtime.outages import Outages, Stopped
from txpatterns.sagas import deadlines
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.definitions import Definitions
from txpatterns.sagas.driver import Driver
from txpatterns.sagas.grouping import GroupWriter
from txpatterns.sagas.handles import Outcome
from txpatterns.sagas.moments import SagaNeedsAttention
from txpatterns.sagas.queues import ACTIVE
from txpatterns.sagas.schema import SAGAS, SCOPE
from txpatterns.sagas.settings import SagaSettings
from txpatterns.sagas.store import Entry, SagaStore, Standing, Write
from txpatterns.sagas.tools import Tools
from txpatterns.sagas.upkeep import Upkeep
from txpatterns.sagas.writer import Ahead

logger = logging.getLogger("txpatterns")

T = TypeVar("T")

_COMPARE_EVERY = timedelta(seconds=10)
_SWEEP_EVERY = timedelta(seconds=30)
_ALONE = 2
"""From so many owners that died with a saga on, it runs without others, so that they are not taken for the cause."""
_NOW = timedelta(0)


class SagaEngine:
    """Runs the sagas of one application in this process, as one of any number that do.

    ``ended`` is told the type and the id of each saga that has ended here, and its outcome. ``hears_late`` says that
    events may wait at a broker that came while nobody ran.
    """

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        outbox: Outbox,
        *,
        hooks: HookList,
        settings: SagaSettings | None = None,
        ended: Callable[[str, str, Outcome | None], None] = lambda *_: None,
        hears_late: bool = False,
    ) -> None:
        self.settings = settings or SagaSettings()
        self._hears_late = hears_late
        self._definitions = definitions
        self._stopping, self._wake = asyncio.Event(), asyncio.Event()
        self._store = SagaStore(database)
        self._database = database
        self._leases = Leases(database, SCOPE, slots=0, ttl=self.settings.lease_ttl)
        concurrency = 1 if database.is_sqlite else self.settings.concurrency
        self._tools = Tools(
            database,
            self._store,
            Execution(database),
            outbox,
            hooks,
            Outages(database.clock, SAGAS, self._stopping),
            GroupWriter(self._store),
            asyncio.Semaphore(concurrency),
            ended=ended,
            wake=self._wake.set,
            long_journal=self.settings.long_journal,
            longest_journal=self.settings.longest_journal,
        )
        self._upkeep = Upkeep(self._store, self.settings, self._transact)
        self._pace = Pace(database.clock)
        self._room = asyncio.Event()
        """Set when one that ran here does not any more."""
        self._may_have_claimed = False
        """A claim has failed, and it is not known whether it was committed."""
        self._running: dict[int, asyncio.Task[None]] = {}
        self._drivers: dict[int, Driver] = {}
        self._is_for_one = 0
        """Whether a saga runs alone, or is about to."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Run sagas until ``stop`` is called, or until cancelled; what is not finished then others go on with."""
        self._stopping.clear()
        self._loop = asyncio.get_running_loop()
        if self._hears_late:
            grace = self.settings.timeout_grace.total_seconds()
            self._tools.timeouts_from = self._database.clock.monotonic() + grace
        membership = Membership(self._leases, self._told, self._lost)
        clock, tasks = self._database.clock, list[asyncio.Task[None]]()
        try:
            with suppress(Stopped):
                await self._tools.outages.insist(membership.join)
                for name, work in {
                    "membership": partial(membership.keep, clock, self._stopping),
                    "steps": partial(self._tools.execution.underway.watch, self._stopping),
                }.items():
                    insisted = self._tools.outages.insist(work)
                    tasks.append(asyncio.create_task(_until_stopped(insisted), name=f"sagas {name}"))
                await self._claim_on()
                await self._finished()
        finally:
            self._loop = None
            await finish(self._end(tasks, membership))

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when the steps that run have ended, or after ``stop_within``."""
        self._stopping.set()
        self._wake.set()
        self._room.set()

    def wake(self) -> bool:
        """Look for due sagas now. From any thread; says whether no other process needs to know."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._wake.set)
        return loop is not None

    def owner_of(self, sagas: int) -> str | None:
        """Give who owns so many sagas that start now; None: they are to be claimed. From any thread."""
        has_room = len(self._running) + sagas <= self.settings.at_once and not self._is_for_one
        is_here = self._loop is not None and not self._stopping.is_set() and self._leases.is_safe
        return self._leases.owner if has_room and is_here else None

    def adopt(self, sagas: Sequence[Claimed]) -> None:
        """Run what has been started with this owner. From any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile: the lease runs out
                loop.call_soon_threadsafe(self._adopt, sagas, self._leases.owner)

    def _adopt(self, sagas: Sequence[Claimed], owner: str) -> None:
        for saga in sagas:
            is_ours = self._loop is not None and not self._stopping.is_set() and owner == self._leases.owner
            if is_ours and saga.number not in self._running:
                self._run(saga)

    def listen(self, listener: Hearing) -> None:
        """Be told of what others start, and look less often while that is known to arrive."""
        listener.on(SAGAS, self._wake.set, sign=sa.select(*ACTIVE.signs))
        self._pace.follow(listener)

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        told = self._tools.outages.told()
        return [*([told] if told else []), *self._tools.execution.underway.long()]

    async def caught_up(self, moment: datetime) -> bool:
        """Wait until each saga that is due at a moment and can be run here rests; says whether there were any."""
        found = False
        while not self._stopping.is_set():
            query = partial(self._store.has_due, known=self._definitions.known(), moment=moment)
            if not await self._database.read(query) and not self._running:
                return found
            found = True
            self._wake.set()
            running = list(self._running.values())
            await asyncio.wait(running, timeout=0.05) if running else await asyncio.sleep(0.001)
        return found

    async def _claim_on(self) -> None:
        compare = Every(self._database.clock, _COMPARE_EVERY, lambda: self._insist(self._compare))
        sweep = Every(self._database.clock, _SWEEP_EVERY, self._upkeep.sweep)
        while not self._stopping.is_set():
            self._wake.clear()
            await compare.when_due()
            await sweep.when_due()
            await self._nudge()
            if await self._claim():
                continue
            self._tools.outages.fine()
            self._tools.hooks.tell(Idle(SAGAS))
            await self._rest()

    async def _rest(self) -> None:
        longest = timedelta(seconds=self._pace.between_looks(self.settings.poll_interval.total_seconds()))
        look = partial(self._store.next_due, known=self._definitions.known(), within=longest)
        due = await self._insist(lambda: self._database.read(look))
        wait = longest if due is None or due <= _NOW else due
        await self._database.clock.wait(self._wake, wait)

    async def _claim(self) -> int:
        """Claim what is due and begin it; says how many sagas that were."""
        free = self.settings.at_once - len(self._running)
        if free <= 0:
            self._room.clear()
            await self._database.clock.wait(self._room, self.settings.poll_interval)
            return 1
        claim = partial(
            self._store.claim,
            owner=self._leases.owner,
            alive=self._leases.alive(),
            known=self._definitions.known(),
            most=free,
        )

        async def attempt() -> list[Claimed]:
            if self._may_have_claimed:
                await self._give_back()
            self._may_have_claimed = True
            taken = await self._database.transact(claim)
            self._may_have_claimed = False
            return taken

        claimed = await self._insist(attempt)
        for saga in claimed:
            await self._begin(saga)
        return len(claimed)

    async def _begin(self, saga: Claimed) -> None:
        if saga.crashes >= self.settings.poisoned_after:
            await self._flag(saga)
            return
        alone = saga.crashes >= _ALONE
        self._is_for_one += alone
        try:
            if alone:
                await self._until_alone()
            if self._stopping.is_set():
                return  # it is given back
            self._run(saga)
            if alone:
                await self._until_alone()
        finally:
            self._is_for_one -= alone

    def _run(self, saga: Claimed) -> None:
        definition = self._definitions.find(saga.type, saga.version)
        assert definition is not None, "only what is known is claimed, or started"
        driver = self._drivers[saga.number] = Driver(self._tools, definition, saga)
        task = asyncio.create_task(self._drive(driver), name=f"saga {saga.id}")
        self._running[saga.number] = task
        task.add_done_callback(partial(self._ended, saga.number))

    async def _until_alone(self) -> None:
        """Wait until nothing runs, or the engine is to stop."""
        while self._running and not self._stopping.is_set():
            self._room.clear()
            await self._room.wait()

    async def _flag(self, saga: Claimed) -> None:
        """Leave a saga to a person with which one process after the other has died; its deadline counts on."""
        why = f"{saga.crashes} processes have died while they ran it, without any progress"
        alone = Write((), Standing(saga.status, None, is_owned=False, attention=why, crashes=saga.crashes))

        def leave(connection: Connection) -> None:
            entries: Sequence[Entry] = ()
            write = alone
            with suppress(SagaDiverged):  # then another release has to undo it
                entries = self._store.journal(connection, saga)
                write = deadlines.left_alone(saga, entries, saga.claimed_at, why)
            self._store.write(connection, saga, len(entries) + 1, write)

        with suppress(LeaseLost):
            await self._transact(leave)
            if saga.attention != why:
                self._tools.hooks.tell(SagaNeedsAttention(saga.type, saga.id, why))

    async def _drive(self, driver: Driver) -> None:
        saga = driver.saga
        try:
            await driver.drive()
        except (LeaseLost, Stopped) as error:
            logger.info("%s %s goes on elsewhere: %s", saga.type, saga.id, type(error).__name__)
        except Exception as error:
            logger.exception("the run of %s %s ended unexpectedly; it is begun anew", saga.type, saga.id)
            with suppress(Ahead, LeaseLost, Stopped):  # then it is given back, or is another's already
                await driver.put_off(error)

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        if self._running.get(number) is task:  # and not the next run, which may have begun while this one ended
            del self._running[number]
            if not self._drivers.pop(number).has_ended:
                self._wake.set()  # it may be due again soon
        self._room.set()

    async def _nudge(self) -> None:
        """Tell those that run here what has arrived for them meanwhile."""
        waiting = [number for number, driver in self._drivers.items() if driver.waits_for_events]
        if waiting:
            look = partial(self._store.signals.nudged, sagas=waiting)
            for number in await self._insist(lambda: self._database.read(look)):
                if number in self._drivers:
                    self._drivers[number].nudge()

    async def _compare(self) -> None:
        """Give back what should have begun here: the answer to the commit that started it was lost."""
        await self._give_back(older_than=_COMPARE_EVERY)

    async def _give_back(self, older_than: timedelta = _NOW) -> None:
        """Give back what is ours by the database and does not run here: an answer may have been lost."""
        owner, running = self._leases.owner, list(self._running)
        give_back = partial(self._store.give_back, owner=owner, running=running, older_than=older_than)
        if count := await self._database.transact(give_back):
            logger.warning("%d sagas were ours and did not run; they are given back", count)

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        return await self._insist(lambda: self._database.transact(work))

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        return await self._tools.outages.insist(step, while_=may_pass)

    def _told(self, _census: Census) -> None:
        """How many live is nothing that this part acts upon."""

    async def _lost(self) -> None:
        """Let go of everything: what was ours others may have by now. Of the rest nobody has died."""
        await self._cancel()
        await self._release()

    async def _finished(self) -> None:
        """Let the steps that run come to their end, within the deadline."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self.settings.stop_within.total_seconds())

    async def _cancel(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _end(self, tasks: list[asyncio.Task[None]], membership: Membership) -> None:
        """Leave nothing behind that still runs, and give back what is ours."""
        for task in tasks:
            task.cancel()
        await self._cancel()
        await self._tools.group.finish()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):  # when the database is away, the lease runs out by itself
            await self._release()
            await membership.leave()

    async def _release(self) -> None:
        """Give back all that is ours."""
        await self._database.transact(partial(self._store.give_back, owner=self._leases.owner, running=()))
        self._wake.set()


async def _until_stopped(work: Awaitable[None]) -> None:
    with suppress(Stopped):
        await work
