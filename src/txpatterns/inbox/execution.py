"""Running a handler in its transaction, in the event loop or in a thread, and telling what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import anyio
import anyio.to_thread
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext, RootTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from txpatterns.database import Database
from txpatterns.database.dialects import is_disconnect, is_repeatable, may_pass
from txpatterns.database.engines import WRITES, refuse_autocommit
from txpatterns.database.finishing import Breakable, finish
from txpatterns.errors import HandlerDefinitionError, TransactionEnded
from txpatterns.inbox.handlers import AnyHandler, Handler, is_coroutine_function, name_of
from txpatterns.inbox.transaction import Emitter, SyncTransaction, Transaction
from txpatterns.messages import Event, Message

_WRITES = {WRITES: True}
_FAILED = "txpatterns_failed"


class Came(Enum):
    """What came of running a handler."""

    DONE = "done"
    """Its transaction is committed."""
    REFUSED = "refused"
    """The opening said no; nothing ran."""
    FAILED = "failed"
    """It raised, or what it wrote could not be committed; all is rolled back."""
    REPEAT = "repeat"
    """The database gave the transaction up for another's sake; all is rolled back, and it may run again at once."""
    ENDED = "ended"
    """It ended the transaction by itself, and what it had written until then is committed."""
    OUTAGE = "outage"
    """The database could not be worked with. Whether a commit under way took place is not known."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, with the error where there was one."""

    came: Came
    error: Exception | None = None
    ended: bool = False
    """Whether the handler ended the transaction by itself, so that its record may stand although it failed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: what opens the transaction, and what then runs in it."""

    handler: Handler
    event: Event
    message: Message
    opening: Callable[[Connection], bool]
    stands: Callable[[Connection], bool]
    """Whether what the opening wrote is still there."""
    around: Callable[[], AbstractContextManager[object]]
    handling: Breakable = field(default_factory=Breakable)
    """The handler's own part: only this may be cancelled, neither the opening nor the commit."""


class Execution:
    """Runs handlers, each in a session and transaction of its own on the application's engine."""

    def __init__(self, database: Database, emitter: Emitter | None) -> None:
        self.database = database
        self.emitter = emitter
        self._async_engine: AsyncEngine | None = None
        self._sync_engine: Engine | None = None
        self._threads = anyio.CapacityLimiter(40)
        if isinstance(database.engine, AsyncEngine):
            self._async_engine = database.engine
            _listen(database.engine.sync_engine)

    def accept(self, function: AnyHandler) -> None:
        """Refuse a function that this database cannot run.

        Raises:
            HandlerDefinitionError: a coroutine on an engine that blocks.
        """
        if is_coroutine_function(function) and self._async_engine is None:
            raise HandlerDefinitionError(
                f"{name_of(function)} is async def, but the database was given as an Engine, which blocks.",
                fix="Write the handler as def with SyncTransaction, or give an AsyncEngine or an asynchronous URL.",
            )

    def prepare_threads(self, most: int) -> Engine:
        """Make ready for ``def`` handlers. Raises MissingExtra where the driver for them is not installed."""
        self._sync_engine = self.database.sync_engine
        _listen(self._sync_engine)
        self._threads.total_tokens = most
        return self.database.sync_engine

    async def run(self, run: Run) -> Result:
        """Run a handler once. Raises nothing but what cancels it."""
        async with self.database.writing():
            if run.handler.is_async:
                return await finish(self._in_loop(run), run.handling)
            handling = partial(self._in_thread, run)
            return await anyio.to_thread.run_sync(handling, limiter=self._threads, abandon_on_cancel=True)

    async def _in_loop(self, run: Run) -> Result:
        session = AsyncSession(self._async_engine, expire_on_commit=False)
        try:
            result = await self._in_session(session, run)
        except BaseException:
            # Cancelled in mid-statement, nobody knows what the connection is doing: it must not go back to the pool.
            await session.invalidate()
            raise
        if result.came not in (Came.DONE, Came.REFUSED):  # after a commit there is nothing left to close
            with suppress(Exception):  # the outcome is known; a link that breaks now changes nothing of it
                await session.rollback()  # when a COMMIT has failed, closing alone leaves SQLite's transaction open
            with suppress(Exception):
                await session.close()
        return result

    async def _in_session(self, session: AsyncSession, run: Run) -> Result:
        try:
            connection, may_run = await session.run_sync(_open, run)
            if not may_run:
                # What an opening wrote besides its claim stays, for example that the next of the lane is due.
                await session.commit()
                return Result(Came.REFUSED)
        except Exception as error:  # noqa: BLE001 - told in the result
            return _of_opening(error)
        transaction = Transaction(session, run.message, run.handler.consumer, self.emitter)
        opened, committing = connection.get_transaction(), False
        try:
            with run.around():
                with run.handling:
                    await _uncancelled(run.handler.call(run.event, transaction))
                transaction.close()
                if _has_ended(connection, opened):
                    raise TransactionEnded
                if _FAILED in connection.info:
                    await session.run_sync(_see_that_it_stands, run)
                committing = True
                await session.commit()
        except Exception as error:  # noqa: BLE001 - told in the result
            ended = not committing and _has_ended(connection, opened)
            return _of_handler(error, lost=committing or connection.invalidated, ended=ended)
        finally:
            transaction.close()
        return Result(Came.DONE)

    def _in_thread(self, run: Run) -> Result:
        session = Session(self._sync_engine, expire_on_commit=False)
        try:
            result = self._in_plain_session(session, run)
        except BaseException:
            session.invalidate()
            raise
        with suppress(Exception):
            session.rollback()
        with suppress(Exception):
            session.close()
        return result

    def _in_plain_session(self, session: Session, run: Run) -> Result:
        try:
            connection, may_run = _open(session, run)
            if not may_run:
                session.commit()
                return Result(Came.REFUSED)
        except Exception as error:  # noqa: BLE001 - told in the result
            return _of_opening(error)
        transaction = SyncTransaction(session, run.message, run.handler.consumer, self.emitter)
        opened, committing = connection.get_transaction(), False
        try:
            with run.around():
                run.handler.call(run.event, transaction)
                transaction.close()
                if _has_ended(connection, opened):
                    raise TransactionEnded
                if _FAILED in connection.info:
                    _see_that_it_stands(session, run)
                committing = True
                session.commit()
        except Exception as error:  # noqa: BLE001 - told in the result
            ended = not committing and _has_ended(connection, opened)
            return _of_handler(error, lost=committing or connection.invalidated, ended=ended)
        finally:
            transaction.close()
        return Result(Came.DONE)


def _open(session: Session, run: Run) -> tuple[Connection, bool]:
    connection = session.connection(execution_options=_WRITES)
    refuse_autocommit(connection)
    connection.info.pop(_FAILED, None)
    return connection, run.opening(connection)


def _has_ended(connection: Connection, opened: RootTransaction | None) -> bool:
    return connection.closed or connection.get_transaction() is not opened


def _listen(engine: Engine) -> None:
    if not event.contains(engine, "handle_error", _note_failure):
        event.listen(engine, "handle_error", _note_failure)


def _note_failure(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info[_FAILED] = str(context.original_exception)


def _see_that_it_stands(session: Session, run: Run) -> None:
    """A handler that swallows an error may have nothing left to commit, and COMMIT would not say so.

    PostgreSQL ends a transaction with an error in it by a rollback, and SQLite has rolled back already after some.
    """
    connection = session.connection()
    error = connection.info[_FAILED]
    try:
        stands = run.stands(connection)
    except DBAPIError:
        stands = False
    if not stands:
        raise RuntimeError(f"The handler went on after an error that undid all its work: {error}")


def _of_opening(error: Exception) -> Result:
    """Nothing has run yet, so whatever failed is the database's, and nothing is held against the message.

    Unless waiting cannot mend it, as with a connection that commits by itself: then somebody must be told.
    """
    if not may_pass(error):
        return Result(Came.FAILED, error)
    return Result(Came.REPEAT if is_repeatable(error) else Came.OUTAGE, error)


def _of_handler(error: Exception, *, lost: bool, ended: bool) -> Result:
    """Only a lost connection of ours is an outage: a handler may well have talked to other servers."""
    if lost and is_disconnect(error):
        return Result(Came.OUTAGE, error, ended)
    return Result(Came.REPEAT if is_repeatable(error) else Came.FAILED, error, ended)


async def _uncancelled(handling: Awaitable[None]) -> None:
    """Await a handler; a cancellation that comes from inside it, and not to us, is an error like any other."""
    try:
        await handling
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("Something that the handler awaited was cancelled.") from error
