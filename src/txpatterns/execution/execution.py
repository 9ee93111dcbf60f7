"""Running user code in a transaction of its own, in the event loop or in a thread."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from txpatterns.database import Database
from txpatterns.database.finishing import finish
from txpatterns.execution.calls import InLoop, InThread
from txpatterns.execution.run import Result, Run
from txpatterns.execution.threads import Threads
from txpatterns.execution.transactions import transact
from txpatterns.execution.underway import Underway


class Execution:
    """Runs code once for each call, in a session and transaction of its own on the application's engine."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.underway = Underway(database.clock)
        self.can_await = isinstance(database.engine, AsyncEngine)
        """Whether code may run in the event loop: not on an engine that blocks."""
        self._threads = Threads()

    def prepare_threads(self) -> Engine:
        """Make ready for plain code. Raises MissingExtra where the driver for it is not installed."""
        return self.database.sync_engine

    async def run(self, run: Run) -> Result:
        """Run the code once. Raises nothing but what cancels it, or ends the process.

        Whatever the code raises is told in the result, a ``SystemExit`` or an error of another language included.
        When a caller of plain code is cancelled, the code goes on in its thread: what it commits then counts.
        """
        async with self.database.writing():
            if run.in_loop:
                session = self.database.session()
                caller = InLoop(run, session, self.underway)
                return await finish(session.run_sync(transact, run, caller), caller.handling)
            return await self._threads.run(partial(self._in_thread, run))

    def _in_thread(self, run: Run) -> Result:
        return transact(self.database.sync_session(), run, InThread(run, self.underway))
