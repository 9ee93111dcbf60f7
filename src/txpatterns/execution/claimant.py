"""A member that claims rows which are due, and runs each of them in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Census, Hearing, Leases, Membership, Pace
from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.database.finishing import finish
from txpatterns.execution.underway import Underway
from txpatterns.runtime.outages import Outages, Stopped

T = TypeVar("T")

_NOW = timedelta(0)
_NOTHING_ELSE: Mapping[str, Callable[[], Awaitable[None]]] = {}


class NextDue(Protocol):
    """Says how long until a row is due that nobody who lives owns; None: not within that time."""

    def __call__(self, connection: Connection, *, within: timedelta) -> timedelta | None: ...


async def _nothing() -> None:
    """Nothing is under way beside the tasks."""


class Claimant:
    """What the parts have in common that claim rows: membership, tasks, room for more, waking, and an end.

    ``release`` lets others claim all that this owner has by the database; nothing of it runs here then. ``settle`` is
    waited for before.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        leases: Leases,
        underway: Underway,
        release: Callable[[Connection], object],
        settle: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.name = name
        self.leases = leases
        self.stopping, self.woken = asyncio.Event(), asyncio.Event()
        self.outages = Outages(database.clock, name, self.stopping)
        self.running: dict[int, asyncio.Task[None]] = {}
        """What runs here, by the number of its row."""
        self._database = database
        self._underway = underway
        self._release = release
        self._settle = settle
        self._pace = Pace(database.clock)
        self._room = asyncio.Event()
        """Set when one that ran here does not any more."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def goes_on(self) -> bool:
        """Whether this runs, and is not about to stop. From any thread."""
        return self._loop is not None and not self.stopping.is_set()

    @property
    def is_here(self) -> bool:
        """Whether this goes on, as a member that nobody takes for dead. From any thread."""
        return self.goes_on and self.leases.is_safe

    async def run(
        self,
        claim_on: Callable[[], Awaitable[None]],
        *,
        stop_within: timedelta,
        beside: Mapping[str, Callable[[], Awaitable[None]]] = _NOTHING_ELSE,
    ) -> None:
        """Be a member while ``claim_on`` runs, and what is to run ``beside`` it.

        What was claimed and still runs then has ``stop_within``; others go on with what is left.
        """
        self.stopping.clear()
        self._loop = asyncio.get_running_loop()
        membership = Membership(self.leases, self._told, self._lost)
        beside = {
            "membership": partial(membership.keep, self._database.clock, self.stopping),
            "code": partial(self._underway.watch, self.stopping),
            **beside,
        }
        tasks = list[asyncio.Task[None]]()
        try:
            with suppress(Stopped):
                await self.outages.insist(membership.join)
                for name, work in beside.items():
                    tasks.append(asyncio.create_task(self._until_stopped(work), name=f"{self.name} {name}"))
                await claim_on()
                if self.running:
                    await asyncio.wait(self.running.values(), timeout=stop_within.total_seconds())
        finally:
            self._loop = None
            await finish(self._end(tasks, membership))

    def stop(self) -> None:
        """Begin nothing more."""
        self.stopping.set()
        self.woken.set()
        self._room.set()

    def wake(self) -> bool:
        """Look for due rows now. From any thread; says whether no other process needs to know."""
        return self.call(self.woken.set)

    def call(self, function: Callable[..., None], *args: object) -> bool:
        """Call something in the loop that this runs in, soon; says whether there is one. From any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile: the lease runs out
                loop.call_soon_threadsafe(function, *args)
        return loop is not None

    def listen(self, listener: Hearing, sign: sa.Select[Any]) -> None:
        """Be told of what others leave, and look less often while that is known to arrive."""
        listener.on(self.name, self.woken.set, sign=sign)
        self._pace.follow(listener)

    def attention(self) -> list[str]:
        """Say in words what a person should look at."""
        told = self.outages.told()
        return [*([told] if told else []), *self._underway.long()]

    async def caught_up(self, has_due: Callable[[Connection], bool]) -> bool:
        """Wait until nothing runs and no row is due that should be; says whether there were any."""
        found = False
        while not self.stopping.is_set():
            if not await self._database.read(has_due) and not self.running:
                return found
            found = True
            self.woken.set()
            running = list(self.running.values())
            await asyncio.wait(running, timeout=0.05) if running else await asyncio.sleep(0.001)
        return found

    def begin(self, number: int, work: Coroutine[Any, Any, None], *, name: str, ended: Callable[[int], None]) -> None:
        """Run what was claimed. ``ended`` is told its number, unless it is another run of it that has ended."""
        task = self.running[number] = asyncio.create_task(work, name=name)
        task.add_done_callback(partial(self._ended, number, ended))

    async def until_room(self, most: int, *, look_again: timedelta) -> int:
        """Say how many more may run; waits for a while when none may, and says 0 then."""
        free = most - len(self.running)
        if free <= 0:
            self._room.clear()
            await self._database.clock.wait(self._room, look_again)
        return max(free, 0)

    async def until_alone(self) -> None:
        """Wait until nothing runs, or this is to stop."""
        while self.running and not self.stopping.is_set():
            self._room.clear()
            await self._room.wait()

    async def rest(self, next_due: NextDue, *, poll: timedelta) -> None:
        """Wait until something is due, or somebody wakes this, or it is time to look."""
        longest = timedelta(seconds=self._pace.between_looks(poll.total_seconds()))
        due = await self.insist(lambda: self._database.read(lambda connection: next_due(connection, within=longest)))
        await self._database.clock.wait(self.woken, longest if due is None or due <= _NOW else due)

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction, as often as the database is away meanwhile."""
        return await self.insist(lambda: self._database.transact(work))

    async def insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step while what it raises may pass."""
        return await self.outages.insist(step, while_=may_pass)

    async def _until_stopped(self, work: Callable[[], Awaitable[None]]) -> None:
        with suppress(Stopped):
            await self.outages.insist(work)

    def _told(self, _census: Census) -> None:
        """How many live is nothing that is acted upon here."""

    async def _lost(self) -> None:
        """Let go of everything: what was ours others may have by now. Of the rest nobody has died."""
        await self._cancel()
        await self._let_go()

    async def _cancel(self) -> None:
        running = list(self.running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _end(self, tasks: list[asyncio.Task[None]], membership: Membership) -> None:
        """Leave nothing behind that still runs, and give back what is ours."""
        for task in tasks:
            task.cancel()
        await self._cancel()
        await self._settle()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):  # when the database is away, the lease runs out by itself
            await self._let_go()
            await membership.leave()

    async def _let_go(self) -> None:
        await self._database.transact(self._release)
        self.woken.set()

    def _ended(self, number: int, ended: Callable[[int], None], task: asyncio.Task[None]) -> None:
        if self.running.get(number) is task:  # and not the next run, which may have begun while this one ended
            del self.running[number]
            ended(number)
        self._room.set()
