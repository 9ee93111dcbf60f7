"""Steps of several transactions in every order, on a real PostgreSQL, with blocked steps found and passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import permutations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

TIMEOUT = 30.0
_WAITS = sa.text("SELECT cardinality(pg_blocking_pids(:pid)) > 0")

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
        self._task = asyncio.create_task(self._run())

    @classmethod
    async def on(cls, engine: AsyncEngine, isolation_level: str) -> Session:
        connection = await engine.connect()
        await connection.execution_options(isolation_level=isolation_level)
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        await connection.rollback()
        return cls(connection, pid)

    def ask(self, step: Step) -> None:
        self._steps.put_nowait(step)

    @property
    def busy(self) -> bool:
        return self._steps._unfinished_tasks > 0

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.connection.close()

    async def _run(self) -> None:
        while True:
            step = await self._steps.get()
            try:
                await step()
            finally:
                self._steps.task_done()

    def check(self) -> None:
        if self._task.done():
            self._task.result()


async def quiet(sessions: Sequence[Session], watcher: AsyncConnection) -> None:
    """Wait until each session has nothing to do, or waits for another's lock."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            await asyncio.sleep(0)
            for session in sessions:
                session.check()
            waiting = [await _blocked(session, watcher) for session in sessions if session.busy]
            if all(waiting):
                return


async def _blocked(session: Session, watcher: AsyncConnection) -> bool:
    found = (await watcher.execute(_WAITS, {"pid": session.pid})).scalar_one()
    return bool(found) and session.busy
