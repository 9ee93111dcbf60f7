"""Running user code in a transaction of its own, in the event loop or in a thread."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from txpatterns.database import Database
from txpatterns.database.finishing import finish
from txpatterns.errors import TransactionEnded
from txpatterns.execution.calls import InLoop, InThread
from txpatterns.execution.run import Came, Result, Run
from txpatterns.execution.threads import Threads
from txpatterns.execution.transactions import transact
from txpatterns.execution.underway import Underway

_REPEATS = 5
_ANYTHING = sa.select(sa.literal(1))

Ask = Callable[[Callable[[Connection], bool]], Awaitable[bool]]
"""Asks something in a transaction of the library's own."""


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
                return await finish(session.run_sync(transact, run, caller), caller.code)
            return await self._threads.run(partial(self._in_thread, run))

    async def settle(self, make: Callable[[], Run], ask: Ask) -> Result:
        """Run the code until something has come of it; ``make`` describes each of the runs.

        What the database gave up for another transaction's sake runs again at once, at most five times; so does what
        lost its connection, when the database can be reached again. What then loses it once more has failed: it is the
        code that ends its connection, and not an outage. Code that
        ended its transaction by itself has come to an end (``ENDED``) where what the opening wrote stands, whatever it
        raised then: to run again could only do the rest twice.
        """
        repeats = 0
        while True:
            run = make()
            result = await self.run(run)
            if result.error is not None and result.ended and await ask(run.stands):
                return Result(Came.ENDED, _ended_by(run, result.error))
            if result.came is Came.OUTAGE and result.began:
                await ask(_is_reached)
            elif result.came is not Came.REPEAT:
                return result
            if repeats == _REPEATS:
                return Result(Came.FAILED, result.error)
            repeats += 1

    def _in_thread(self, run: Run) -> Result:
        return transact(self.database.sync_session(), run, InThread(run, self.underway))


def _is_reached(connection: Connection) -> bool:
    return bool(connection.execute(_ANYTHING).scalar())


def _ended_by(run: Run, error: BaseException) -> TransactionEnded:
    if isinstance(error, TransactionEnded):
        return error
    told = "".join(traceback.format_exception_only(error)).strip()
    ended = TransactionEnded(f"{run.origin.name} ended its transaction by itself, and failed then: {told}")
    ended.__cause__ = error
    return ended
