"""Writing for many sagas at once: while one write is under way others gather, and go together as the next.

On PostgreSQL that is one statement for all of them, and on SQLite one transaction. A write of its own commits by
itself; so what commits is the same as if each had been written alone, only sooner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy.engine import Connection

from txpatterns.causes import one_of
from txpatterns.database.dialects import is_disconnect
from txpatterns.database.finishing import finish
from txpatterns.errors import LeaseLost
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.statements import parameters
from txpatterns.sagas.store import SagaStore, Write, row_of

logger = logging.getLogger("txpatterns")

_MOST = 256


class Member(NamedTuple):
    """One saga's write among others."""

    saga: Claimed
    n: int
    write: Write
    done: asyncio.Future[None]

    def tell(self, error: BaseException | None = None) -> None:
        """Tell whoever waits that it is written, or why not; he may have been told, or wait no more."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


async def _end_of(done: asyncio.Future[None]) -> None:
    await asyncio.wait([done])


class GroupWriter:
    """Writes for all sagas of an engine. What cannot be one statement is not for it."""

    def __init__(self, store: SagaStore) -> None:
        self._store = store
        self._waiting: list[Member] = []
        self._is_under_way = False
        self._task: asyncio.Task[None] | None = None

    async def write(self, saga: Claimed, n: int, write: Write) -> None:
        """Do what ``SagaStore.write`` does, in a transaction of the library's own.

        Raises:
            LeaseLost: somebody else has claimed the saga since.
        """
        if saga.crashes:  # its first write says that it gets on
            await self._alone(saga, n, write)
            return
        if self._is_under_way:
            member = Member(saga, n, write, asyncio.get_running_loop().create_future())
            self._waiting.append(member)
            await self._told(member)
            return
        self._is_under_way = True
        try:
            await self._alone(saga, n, write)
        finally:
            self._pass_on()

    async def _told(self, member: Member) -> None:
        """Wait for what becomes of a write. Cancelled, it waits for one that is under way: who reads then sees it."""
        try:
            await asyncio.shield(member.done)
        except asyncio.CancelledError:
            if any(waiting is member for waiting in self._waiting):
                member.done.cancel()
            else:
                await finish(_end_of(member.done))
            raise

    async def finish(self) -> None:
        """Wait until nothing is under way, when nobody writes any more."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _pass_on(self) -> None:
        """Let those go next that have gathered meanwhile."""
        members = [member for member in self._waiting if not member.done.done()]
        together, self._waiting = members[:_MOST], members[_MOST:]
        self._is_under_way = bool(together)
        if together:
            self._task = asyncio.create_task(self._write_together(together), name=f"{len(together)} sagas' writes")

    async def _write_together(self, members: Sequence[Member]) -> None:
        try:
            await self._settle(members)
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever waits for it
            for member in members:
                member.tell(error)
        finally:
            self._pass_on()

    async def _settle(self, members: Sequence[Member]) -> None:
        """Write for all of them; and alone for each that was not written with the others."""
        try:
            written = await self._store.database.transact(partial(self._all, members=members), single=True)
        except Exception as error:
            if is_disconnect(error):  # nobody knows whether it is committed
                raise
            logger.warning("%d sagas cannot be written together, so each is alone: %s", len(members), one_of(error))
            written = set()
        alone = [member for member in members if member.saga.number not in written]
        for member in members:
            if member.saga.number in written:
                member.tell()
        await asyncio.gather(*(self._write_alone(member) for member in alone))

    async def _write_alone(self, member: Member) -> None:
        try:
            await self._alone(member.saga, member.n, member.write)
        except Exception as error:  # noqa: BLE001 - it is raised by whoever waits for it
            member.tell(error)
        else:
            member.tell()

    async def _alone(self, saga: Claimed, n: int, write: Write) -> None:
        await self._store.database.transact(partial(self._store.write, saga=saga, n=n, write=write), single=True)

    def _all(self, connection: Connection, members: Sequence[Member]) -> set[int]:
        """Write for all of them in one transaction; says of which sagas."""
        if not self._store.database.is_sqlite:
            rows = [row_of(member.saga, member.n, member.write) for member in members]
            given = parameters(rows, self._store.database.seconds())
            return set(self._store.unlocked.run(connection, given).scalars())
        found = set()
        for member in members:
            try:
                self._store.write(connection, member.saga, member.n, member.write)
            except LeaseLost:
                continue
            found.add(member.saga.number)
        return found
