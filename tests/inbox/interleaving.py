"""Steps of several transactions in every order, on a real PostgreSQL, with blocked steps found and passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

TIMEOUT = 120.0
_BLOCKED = sa.text("SELECT pid FROM unnest(CAST(:pids AS int[])) AS pid WHERE cardinality(pg_blocking_pids(pid)) > 0")

Step = Callable[[], Awaitable[None]]


def orders(*lengths: int) -> Iterator[tuple[int, ...]]:
    """Give every order in which sessions with so many steps each can take their turns."""
    turns = [session for session, length in enumerate(lengths) for _ in range(length)]
    yield from sorted(set(permutations(turns)))


class Session:
    """One transaction's steps, taken one after the other as they are asked for."""

    def __init__(self, connection: AsyncConnection, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._unfinished = 0
        self._task = asyncio.create_task(self._run())

    @classmethod
    @asynccontextmanager
    async def on(cls, engine: AsyncEngine, isolation_level: str) -> AsyncIterator[Session]:
        """Open a session, and close it after the test, also after one that fails."""
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level=isolation_level)
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            await connection.rollback()
            session = cls(connection, pid)
            try:
                yield session
            finally:
                session._task.cancel()
                await asyncio.gather(session._task, return_exceptions=True)

    def ask(self, step: Step) -> None:
        self._unfinished += 1
        self._steps.put_nowait(step)

    @property
    def busy(self) -> bool:
        return self._unfinished > 0

    async def _run(self) -> None:
        while True:
            step = await self._steps.get()
            try:
                await step()
            finally:
                self._unfinished -= 1

    def check(self) -> None:
        if self._task.done():
            self._task.result()


@asynccontextmanager
async def opened(engine: AsyncEngine, *isolation_levels: str) -> AsyncIterator[list[Session]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Session.on(engine, level)) for level in isolation_levels]


async def quiet(sessions: Sequence[Session], watcher: AsyncConnection) -> None:
    """Wait until each session has nothing to do, or waits for another's lock.

    One look tells of all of them: a session that ends its step between two looks may have freed one that was seen
    to wait before.
    """
    async with asyncio.timeout(TIMEOUT):
        while True:
            await asyncio.sleep(0)
            busy = _pids_of_busy(sessions)
            found = await watcher.execute(_BLOCKED, {"pids": list(busy)})
            if busy == set(found.scalars()) == _pids_of_busy(sessions):
                return


def _pids_of_busy(sessions: Sequence[Session]) -> set[int]:
    for session in sessions:
        session.check()
    return {session.pid for session in sessions if session.busy}
