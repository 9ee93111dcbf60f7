"""The background part that runs sagas: it claims those that are due, and lets a driver run each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Hearing, Leases
from txpatterns.database import Database
from txpatterns.errors import LeaseLost, SagaDiverged
from txpatterns.execution import Claimant, Execution
from txpatterns.hooks import HookList
from txpatterns.outbox import Outbox
from txpatterns.runtime.every import Every
from txpatterns.runtime.moments import Idle
from txpatterns.runtime.outages import Stopped
from txpatterns.sagas import overdue
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
        self._store = SagaStore(database)
        self._database = database
        execution, group = Execution(database), GroupWriter(self._store)
        leases = Leases(database, SCOPE, slots=0, ttl=self.settings.lease_ttl)
        give_back = partial(self._give_back, running=())
        self._claimant = Claimant(database, SAGAS, leases, execution.underway, give_back, group.finish)
        concurrency = 1 if database.is_sqlite else self.settings.concurrency
        self._tools = Tools(
            database,
            self._store,
            execution,
            outbox,
            hooks,
            self._claimant.outages,
            group,
            asyncio.Semaphore(concurrency),
            ended=ended,
            wake=self._claimant.woken.set,
            long_journal=self.settings.long_journal,
            longest_journal=self.settings.longest_journal,
        )
        self._upkeep = Upkeep(self._store, self.settings, self._claimant.transact)
        self._may_have_claimed = False
        """A claim has failed, and it is not known whether it was committed."""
        self._drivers: dict[int, Driver] = {}
        self._is_for_one = 0
        """Whether a saga runs alone, or is about to."""

    async def run(self) -> None:
        """Run sagas until ``stop`` is called, or until cancelled; what is not finished then others go on with."""
        if self._hears_late:
            grace = self.settings.timeout_grace.total_seconds()
            self._tools.timeouts_from = self._database.clock.monotonic() + grace
        await self._claimant.run(self._claim_on, stop_within=self.settings.stop_within)

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when the steps that run have ended, or after ``stop_within``."""
        self._claimant.stop()

    def wake(self) -> bool:
        """Look for due sagas now. From any thread; says whether no other process needs to know."""
        return self._claimant.wake()

    def owner_of(self, sagas: int) -> str | None:
        """Give who owns so many sagas that start now; None: they are to be claimed. From any thread."""
        has_room = len(self._claimant.running) + sagas <= self.settings.at_once and not self._is_for_one
        return self._claimant.leases.owner if has_room and self._claimant.is_here else None

    def adopt(self, sagas: Sequence[Claimed]) -> None:
        """Run what has been started with this owner. From any thread."""
        self._claimant.call(self._adopt, sagas, self._claimant.leases.owner)

    def _adopt(self, sagas: Sequence[Claimed], owner: str) -> None:
        is_ours = self._claimant.goes_on and owner == self._claimant.leases.owner
        for saga in sagas:
            if is_ours and saga.number not in self._claimant.running:
                self._run(saga)

    def listen(self, listener: Hearing) -> None:
        """Be told of what others start, and look less often while that is known to arrive."""
        self._claimant.listen(listener, sa.select(*ACTIVE.signs))

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        return self._claimant.attention()

    async def caught_up(self, moment: datetime) -> bool:
        """Wait until each saga that is due at a moment and can be run here rests; says whether there were any."""

        def has_due(connection: Connection) -> bool:
            return self._store.has_due(connection, known=self._definitions.known(), moment=moment)

        return await self._claimant.caught_up(has_due)

    async def _claim_on(self) -> None:
        compare = Every(self._database.clock, _COMPARE_EVERY, lambda: self._claimant.insist(self._compare))
        sweep = Every(self._database.clock, _SWEEP_EVERY, self._upkeep.sweep)
        while not self._claimant.stopping.is_set():
            self._claimant.woken.clear()
            await compare.when_due()
            await sweep.when_due()
            await self._nudge()
            if await self._claim():
                continue
            self._claimant.outages.fine()
            self._tools.hooks.tell(Idle(SAGAS))
            next_due = partial(self._store.next_due, known=self._definitions.known())
            await self._claimant.rest(next_due, poll=self.settings.poll_interval)

    async def _claim(self) -> bool:
        """Claim what is due and begin it; says whether to look again at once."""
        free = await self._claimant.until_room(self.settings.at_once, look_again=self.settings.poll_interval)
        if not free:
            return True
        claim = partial(
            self._store.claim,
            owner=self._claimant.leases.owner,
            alive=self._claimant.leases.alive(),
            known=self._definitions.known(),
            most=free,
        )

        async def attempt() -> list[Claimed]:
            if self._may_have_claimed:
                await self._give_back_idle()
            self._may_have_claimed = True
            taken = await self._database.transact(claim)
            self._may_have_claimed = False
            return taken

        claimed = await self._claimant.insist(attempt)
        for saga in claimed:
            await self._begin(saga)
        return bool(claimed)

    async def _begin(self, saga: Claimed) -> None:
        if saga.crashes >= self.settings.poisoned_after:
            await self._flag(saga)
            return
        alone = saga.crashes >= _ALONE
        self._is_for_one += alone
        try:
            if alone:
                await self._claimant.until_alone()
            if self._claimant.stopping.is_set():
                return  # it is given back
            self._run(saga)
            if alone:
                await self._claimant.until_alone()
        finally:
            self._is_for_one -= alone

    def _run(self, saga: Claimed) -> None:
        definition = self._definitions.find(saga.type, saga.version)
        assert definition is not None, "only what is known is claimed, or started"
        driver = self._drivers[saga.number] = Driver(self._tools, definition, saga)
        self._claimant.begin(saga.number, self._drive(driver), name=f"saga {saga.id}", ended=self._ended)

    async def _flag(self, saga: Claimed) -> None:
        """Leave a saga to a person with which one process after the other has died; its deadline counts on."""
        why = f"{saga.crashes} processes have died while they ran it, without any progress"
        alone = Write((), Standing(saga.status, None, is_owned=False, attention=why, crashes=saga.crashes))

        def leave(connection: Connection) -> None:
            entries: Sequence[Entry] = ()
            write = alone
            with suppress(SagaDiverged):  # then another release has to undo it
                entries = self._store.journal(connection, saga)
                write = overdue.left_alone(saga, entries, saga.claimed_at, why)
            self._store.write(connection, saga, len(entries) + 1, write)

        with suppress(LeaseLost):
            await self._claimant.transact(leave)
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

    def _ended(self, number: int) -> None:
        if not self._drivers.pop(number).has_ended:
            self._claimant.woken.set()  # it may be due again soon

    async def _nudge(self) -> None:
        """Tell those that run here what has arrived for them meanwhile."""
        waiting = [number for number, driver in self._drivers.items() if driver.waits_for_events]
        if waiting:
            look = partial(self._store.signals.nudged, sagas=waiting)
            for number in await self._claimant.insist(lambda: self._database.read(look)):
                if number in self._drivers:
                    self._drivers[number].nudge()

    async def _compare(self) -> None:
        """Give back what should have begun here: the answer to the commit that started it was lost."""
        await self._give_back_idle(older_than=_COMPARE_EVERY)

    async def _give_back_idle(self, older_than: timedelta = _NOW) -> None:
        """Give back what is ours by the database and does not run here: an answer may have been lost."""
        give_back = partial(self._give_back, running=list(self._claimant.running), older_than=older_than)
        if count := await self._database.transact(give_back):
            logger.warning("%d sagas were ours and did not run; they are given back", count)

    def _give_back(self, connection: Connection, running: Collection[int], older_than: timedelta = _NOW) -> int:
        return self._store.give_back(connection, self._claimant.leases.owner, running, older_than=older_than)
