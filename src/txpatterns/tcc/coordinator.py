"""The background part that brings to its end what a dead process has left, or what could not be done at once."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Hearing, Leases
from txpatterns.errors import LeaseLost
from txpatterns.execution import Claimant
from txpatterns.runtime.every import Every
from txpatterns.runtime.moments import Idle
from txpatterns.runtime.outages import Stopped
from txpatterns.tcc.claims import Held
from txpatterns.tcc.conclusion import Conclusion, Means
from txpatterns.tcc.parts import Tools
from txpatterns.tcc.queues import ACTIVE
from txpatterns.tcc.schema import SCOPE, TCC, Status
from txpatterns.tcc.store import Move
from txpatterns.tcc.tcc import Tcc

logger = logging.getLogger("txpatterns")

_COMPARE_EVERY = timedelta(seconds=10)
_SWEEP_EVERY = timedelta(seconds=30)
_POISONED = 3
"""From so many owners that died with a transaction on, it is tried seldom, and a person is told."""
_NOW = timedelta(0)


class TccCoordinator:
    """Recovers the transactions of one application, as one of any number of processes that do."""

    def __init__(self, tcc: Tcc) -> None:
        self._app = tcc.app
        self._tools: Tools = tcc.tools
        self._settings = tcc.tools.settings
        self._database = tcc.tools.database
        self._store = tcc.tools.store
        self._barrier = tcc.serving.barrier
        self._overdue = tcc.overdue
        self._most = 1 if self._database.is_sqlite else self._settings.concurrency
        leases = Leases(self._database, SCOPE, slots=0, ttl=self._settings.lease_ttl)
        underway = self._tools.execution.underway
        self._claimant = Claimant(self._database, TCC, leases, underway, partial(self._give_back, running=()))

    async def run(self) -> None:
        """Recover until ``stop`` is called, or until cancelled; what is not finished then others go on with."""
        self._tools.participants.check()
        keep = partial(self._overdue.keep, self._database.clock, self._claimant.stopping)
        beside = {"overdue": keep} if self._overdue else {}
        await self._claimant.run(self._claim_on, stop_within=self._settings.stop_within, beside=beside)

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when what runs has ended, or after ``stop_within``."""
        self._claimant.stop()

    def wake(self) -> bool:
        """Look for due transactions now. From any thread; says whether no other process needs to know."""
        return self._claimant.wake()

    def listen(self, listener: Hearing) -> None:
        """Be told of what others leave, and look less often while that is known to arrive."""
        self._claimant.listen(listener, sa.select(*ACTIVE.signs))

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        return [*self._claimant.attention(), *self._overdue.attention()]

    async def caught_up(self, moment: datetime) -> bool:
        """Wait until each transaction that is due at a moment rests, or has ended; says whether there were any."""
        return await self._claimant.caught_up(partial(self._store.has_due, app=self._app, moment=moment))

    async def _claim_on(self) -> None:
        compare = Every(self._database.clock, _COMPARE_EVERY, self._compare)
        sweep = Every(self._database.clock, _SWEEP_EVERY, self._sweep)
        while not self._claimant.stopping.is_set():
            self._claimant.woken.clear()
            await compare.when_due()
            await sweep.when_due()
            if await self._claim():
                continue
            self._claimant.outages.fine()
            self._tools.hooks.tell(Idle(TCC))
            next_due = partial(self._store.next_due, app=self._app, alive=self._claimant.leases.alive())
            await self._claimant.rest(next_due, poll=self._settings.poll_interval)

    async def _claim(self) -> bool:
        """Claim what is due and begin to conclude it; says whether to look again at once."""
        free = await self._claimant.until_room(self._most, look_again=self._settings.poll_interval)
        if not free:
            return True
        leases = (self._claimant.leases.owner, self._claimant.leases.alive())
        claim = partial(self._store.claim, app=self._app, leases=leases, most=free)
        claimed = await self._claimant.transact(claim)
        for held in claimed:
            name = f"tcc {held.instance.id}"
            self._claimant.begin(held.number, self._conclude(held), name=name, ended=self._ended)
        return bool(claimed)

    async def _conclude(self, held: Held) -> None:
        try:
            await self._bring_to_its_end(held)
        except (LeaseLost, Stopped) as error:
            logger.info("TCC %s goes on elsewhere: %s", held.instance.id, type(error).__name__)
        except Exception:
            logger.exception("TCC %s could not be gone on with; it is tried again", held.instance.id)
            wait = self._settings.ladder.delay_for_ever(1, self._tools.random)
            with suppress(LeaseLost, Stopped):  # then it is given back, or is another's already
                move = Move(held.status, None, wait, held.attention)
                await self._claimant.transact(partial(self._store.move, held=held, move=move))

    async def _bring_to_its_end(self, held: Held) -> None:
        hold = _NOW
        if held.crashes >= _POISONED:
            hold = self._settings.ladder.delay_for_ever(held.crashes, self._tools.random)
            why = f"{held.crashes} processes have died while they brought it to its end"
            move = Move(held.status, held.owner, hold, held.attention or why, held.crashes)
            await self._claimant.transact(partial(self._store.move, held=held, move=move))
        branches = await self._claimant.insist(
            lambda: self._database.read(lambda connection: self._store.branches(connection, held.instance.xid))
        )
        means = Means(self._claimant.transact, self._claimant.outages.pause, hold)
        to = Status.CONFIRMING if held.status == Status.CONFIRMING else Status.CANCELLING
        await Conclusion(self._tools, held, branches, to, means).run()

    def _ended(self, _number: int) -> None:
        self._claimant.woken.set()  # it may be due again soon

    async def _compare(self) -> None:
        """Give back what is ours by the database and does not run here: the answer to a claim was lost."""
        if count := await self._claimant.transact(partial(self._give_back, running=list(self._claimant.running))):
            logger.warning("%d transactions were ours and did not run; they are given back", count)

    def _give_back(self, connection: Connection, running: Collection[int]) -> int:
        return self._store.claims.give_back(connection, self._claimant.leases.owner, running)

    async def _sweep(self) -> None:
        await self._claimant.transact(partial(self._store.clean, older_than=self._settings.keep_ended))
        await self._claimant.transact(self._barrier.clean)
