"""Running user code in a transaction of its own, in the event loop or in a thread."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from txpatterns.database import Database
from txpatterns.database.finishing import finish
from txpatterns.database.sessions import given_async_session, given_session
from txpatterns.execution.calls import InLoop, InThread
from txpatterns.execution.run import Result, Run
from txpatterns.execution.threads import Threads
from txpatterns.execution.transactions import transact, watch
from txpatterns.execution.underway import Underway


class Execution:
    """Runs code once for each call, in a session and transaction of its own on the application's engine."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.underway = Underway(database.clock)
        self._async_engine = database.engine if isinstance(database.engine, AsyncEngine) else None
        self._sync_engine: Engine | None = None
        self._threads = Threads()
        if self._async_engine is not None:
            watch(self._async_engine.sync_engine)

    @property
    def can_await(self) -> bool:
        """Whether code may run in the event loop: not on an engine that blocks."""
        return self._async_engine is not None

    def prepare_threads(self) -> Engine:
        """Make ready for plain code. Raises MissingExtra where the driver for it is not installed."""
        self._sync_engine = self.database.sync_engine
        watch(self._sync_engine)
        return self._sync_engine

    async def run(self, run: Run) -> Result:
        """Run the code once. Raises nothing but what cancels it, or ends the process.

        Whatever the code raises is told in the result, a ``SystemExit`` or an error of another language included.
        When a caller of plain code is cancelled, the code goes on in its thread: what it commits then counts.
        """
        async with self.database.writing():
            if run.in_loop:
                assert self._async_engine is not None
                session = given_async_session(self._async_engine)
                caller = InLoop(run, session, self.underway)
                return await finish(session.run_sync(transact, run, caller), caller.handling)
            return await self._threads.run(partial(self._in_thread, run))

    def _in_thread(self, run: Run) -> Result:
        assert self._sync_engine is not None
        return transact(given_session(self._sync_engine), run, InThread(run, self.underway))
