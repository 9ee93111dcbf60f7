"""The background part that brings to its end what a dead process has left, or what could not be done at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Hearing, Leases, Membership, Pace
from txpatterns.coordination.leases import Census
from txpatterns.database.dialects import may_pass
from txpatterns.database.finishing import finish
from txpatterns.errors import LeaseLost
from txpatterns.runtime.every import Every
from txpatterns.runtime.moments import Idle
from txpatterns.runtime.outages import Outages, Stopped
from txpatterns.tcc.claims import Held
from txpatterns.tcc.conclusion import Conclusion, Means
from txpatterns.tcc.parts import Tools
from txpatterns.tcc.queues import ACTIVE
from txpatterns.tcc.schema import SCOPE, TCC, Status
from txpatterns.tcc.store import Move
from txpatterns.tcc.tcc import Tcc

logger = logging.getLogger("txpatterns")

T = TypeVar("T")

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
        self._stopping, self._wake, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._outages = Outages(self._database.clock, TCC, self._stopping)
        self._leases = Leases(self._database, SCOPE, slots=0, ttl=self._settings.lease_ttl)
        self._pace = Pace(self._database.clock)
        self._most = 1 if self._database.is_sqlite else self._settings.concurrency
        self._running: dict[int, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Recover until ``stop`` is called, or until cancelled; what is not finished then others go on with."""
        self._tools.participants.check()
        self._stopping.clear()
        self._loop = asyncio.get_running_loop()
        membership = Membership(self._leases, self._told, self._lost)
        clock, tasks = self._database.clock, list[asyncio.Task[None]]()
        try:
            with suppress(Stopped):
                await self._outages.insist(membership.join)
                for name, work in {
                    "membership": partial(membership.keep, clock, self._stopping),
                    "participants": partial(self._tools.execution.underway.watch, self._stopping),
                    **({"overdue": partial(self._overdue.keep, clock, self._stopping)} if self._overdue else {}),
                }.items():
                    insisted = self._outages.insist(work)
                    tasks.append(asyncio.create_task(_until_stopped(insisted), name=f"tcc {name}"))
                await self._claim_on()
                await self._finished()
        finally:
            self._loop = None
            await finish(self._end(tasks, membership))

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when what runs has ended, or after ``stop_within``."""
        self._stopping.set()
        self._wake.set()
        self._room.set()

    def wake(self) -> bool:
        """Look for due transactions now. From any thread; says whether no other process needs to know."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._wake.set)
        return loop is not None

    def listen(self, listener: Hearing) -> None:
        """Be told of what others leave, and look less often while that is known to arrive."""
        listener.on(TCC, self._wake.set, sign=sa.select(*ACTIVE.signs))
        self._pace.follow(listener)

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        told = self._outages.told()
        return [*([told] if told else []), *self._tools.execution.underway.long(), *self._overdue.attention()]

    async def caught_up(self, moment: datetime) -> bool:
        """Wait until each transaction that is due at a moment rests, or has ended; says whether there were any."""
        found = False
        while not self._stopping.is_set():
            query = partial(self._store.has_due, app=self._app, moment=moment)
            if not await self._database.read(query) and not self._running:
                return found
            found = True
            self._wake.set()
            running = list(self._running.values())
            await asyncio.wait(running, timeout=0.05) if running else await asyncio.sleep(0.001)
        return found

    async def _claim_on(self) -> None:
        compare = Every(self._database.clock, _COMPARE_EVERY, self._compare)
        sweep = Every(self._database.clock, _SWEEP_EVERY, self._sweep)
        while not self._stopping.is_set():
            self._wake.clear()
            await compare.when_due()
            await sweep.when_due()
            if await self._claim():
                continue
            self._outages.fine()
            self._tools.hooks.tell(Idle(TCC))
            await self._rest()

    async def _rest(self) -> None:
        longest = timedelta(seconds=self._pace.between_looks(self._settings.poll_interval.total_seconds()))
        look = partial(self._store.next_due, app=self._app, alive=self._leases.alive(), within=longest)
        due = await self._insist(lambda: self._database.read(look))
        wait = longest if due is None or due <= _NOW else due
        await self._database.clock.wait(self._wake, wait)

    async def _claim(self) -> int:
        """Claim what is due and begin to conclude it; says how many transactions that were."""
        free = self._most - len(self._running)
        if free <= 0:
            self._room.clear()
            await self._database.clock.wait(self._room, self._settings.poll_interval)
            return 1
        leases = (self._leases.owner, self._leases.alive())
        claim = partial(self._store.claim, app=self._app, leases=leases, most=free)
        claimed = await self._transact(claim)
        for held in claimed:
            task = asyncio.create_task(self._conclude(held), name=f"tcc {held.instance.id}")
            self._running[held.number] = task
            task.add_done_callback(partial(self._ended, held.number))
        return len(claimed)

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
                await self._transact(partial(self._store.move, held=held, move=move))

    async def _bring_to_its_end(self, held: Held) -> None:
        hold = _NOW
        if held.crashes >= _POISONED:
            hold = self._settings.ladder.delay_for_ever(held.crashes, self._tools.random)
            why = f"{held.crashes} processes have died while they brought it to its end"
            move = Move(held.status, held.owner, hold, held.attention or why, held.crashes)
            await self._transact(partial(self._store.move, held=held, move=move))
        branches = await self._insist(
            lambda: self._database.read(lambda connection: self._store.branches(connection, held.instance.xid))
        )
        means = Means(self._ask, self._outages.pause, hold)
        to = Status.CONFIRMING if held.status == Status.CONFIRMING else Status.CANCELLING
        await Conclusion(self._tools, held, branches, to, means).run()

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        if self._running.get(number) is task:
            del self._running[number]
            self._wake.set()  # it may be due again soon
        self._room.set()

    async def _compare(self) -> None:
        """Give back what is ours by the database and does not run here: the answer to a claim was lost."""
        owner, running = self._leases.owner, list(self._running)
        give_back = partial(self._store.claims.give_back, owner=owner, running=running)
        if count := await self._transact(give_back):
            logger.warning("%d transactions were ours and did not run; they are given back", count)

    async def _sweep(self) -> None:
        await self._transact(partial(self._store.clean, older_than=self._settings.keep_ended))
        await self._transact(self._barrier.clean)

    async def _ask(self, question: Callable[[Connection], bool]) -> bool:
        return await self._transact(question)

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        return await self._insist(lambda: self._database.transact(work))

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        return await self._outages.insist(step, while_=may_pass)

    def _told(self, _census: Census) -> None:
        """How many live is nothing that this part acts upon."""

    async def _lost(self) -> None:
        """Let go of everything: what was ours others may have by now."""
        await self._cancel()
        await self._release()

    async def _finished(self) -> None:
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self._settings.stop_within.total_seconds())

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
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):  # when the database is away, the lease runs out by itself
            await self._release()
            await membership.leave()

    async def _release(self) -> None:
        """Give back all that is ours."""
        await self._database.transact(partial(self._store.claims.give_back, owner=self._leases.owner, running=()))
        self._wake.set()


async def _until_stopped(work: Awaitable[None]) -> None:
    with suppress(Stopped):
        await work
