"""The one body of every execution: open, let the code run, see that its work stands, commit, tell what came of it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext, RootTransaction
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session

from txpatterns.causes import behind, mark, place_of
from txpatterns.database.deferred import end_observation, observe
from txpatterns.database.dialects import (
    NOTHING_WORKS,
    has_open_transaction,
    is_disconnect,
    is_repeatable,
    is_sqlite,
    may_pass,
    sqlstate,
)
from txpatterns.database.engines import WRITES, refuse_autocommit
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import TransactionEnded, TxPatternsError
from txpatterns.execution.run import Came, Result, Run

_WRITES = {WRITES: True}
_ENDS = re.compile(
    r"\s*(?:COMMIT|END|ABORT|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b)|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)
"""Statements that end a transaction without SQLAlchemy's knowledge."""

_running: WeakSet[Connection] = WeakSet()
"""Connections in whose transaction code of the application runs now."""

_failed: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
"""Connections in whose transaction a statement has failed, with the error's text."""
_cut_off: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()
"""Connections that were given up because a statement was cancelled, which says nothing about the link."""


class Caller(Protocol):
    """Where the code runs: in the event loop, or in a thread."""

    def call(self, session: Session) -> object:
        """Run the code; gives what it returned."""

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error is none of the code's own: a cancellation of us, a Ctrl-C, an event loop that is no more."""

    def is_over_limit(self) -> bool:
        """Whether the code took longer than it may."""


def transact(session: Session, run: Run, caller: Caller) -> Result:
    """Run the code once in the session's transaction, and end both. Raises nothing but what is ours."""
    try:
        result = _in_session(session, run, caller)
        if result.came not in (Came.DONE, Came.REFUSED):
            with suppress(Exception):  # the outcome is known; a link that breaks now changes nothing of it
                session.rollback()  # when a COMMIT has failed, closing alone leaves SQLite's transaction open
        with suppress(Exception):
            session.close()
    except GeneratorExit:  # the event loop is no more: nothing can be waited for
        raise
    except BaseException:
        # Cancelled in mid-statement, nobody knows what the connection is doing: it must not go back to the pool.
        session.invalidate()
        raise
    return result


def _in_session(session: Session, run: Run, caller: Caller) -> Result:
    try:
        connection = writing_connection(session, execution_options=_WRITES)
        refuse_autocommit(connection)
        _watch(connection.engine)
        if not run.opening(connection):
            # What an opening wrote besides its claim stays, for example that the next of the lane is due.
            session.commit()
            return Result(Came.REFUSED)
    except BaseException as error:
        if caller.is_ours(error):
            raise
        mark(error, run.origin.place)
        return _of_opening(error)
    opened, returned, committing, committed = connection.get_transaction(), False, False, False
    try:
        with run.around():
            _running.add(connection)
            observe(connection)
            try:
                value = caller.call(session)
            finally:
                committed = end_observation(connection)
                _running.discard(connection)
                run.over()
            returned = True
            if _has_ended(connection, opened):
                raise TransactionEnded
            if connection in _failed or not has_open_transaction(connection):
                _see_that_it_stands(session, run)
            if run.closing is not None:
                session.flush()
                run.closing(connection, value)
            committing = True
            session.commit()
    except BaseException as error:
        if caller.is_ours(error):
            raise
        if returned or not place_of(error):
            mark(error, run.origin.place)
        ended = not committing and (committed or _may_stand(connection, opened))
        if isinstance(error, InvalidRequestError) and not committing and _has_ended(connection, opened):
            error = _closed(error)  # it closed its session, and went on with it
        lost = committing or (connection.invalidated and connection not in _cut_off)
        if caller.is_over_limit() and (link := _broken_link(error, lost=lost)) is not None:
            return Result(Came.FAILED, _over_limit(run, link), ended)
        # SQLite's one writer is this transaction: code that finds the database locked in it waits for itself.
        repeats = any(map(is_repeatable, behind(error))) and (committing or not is_sqlite(connection))
        return _of_code(error, lost=lost, ended=ended, repeats=repeats)
    return Result(Came.DONE, value=value)


def _watch(engine: Engine) -> None:
    """Take note of the statements that fail on an engine, and refuse those that would end a transaction of ours."""
    if not event.contains(engine, "handle_error", _note_failure):
        event.listen(engine, "handle_error", _note_failure)
        event.listen(engine, "before_cursor_execute", _refuse_an_end)


def _refuse_an_end(connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
    if connection in _running and _ENDS.match(statement):
        raise TransactionEnded


def _note_failure(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    if sqlstate(context.original_exception) != NOTHING_WORKS:  # another one has failed before, and that one is told
        _failed[connection] = str(context.original_exception)
    if not isinstance(context.original_exception, Exception):
        _cut_off[connection] = True


def _may_stand(connection: Connection, opened: RootTransaction | None) -> bool:
    """Whether what the code has ended, behind SQLAlchemy's back, may stand. What was rolled back does not.

    If the record of it stands all the same, another process has done the work meanwhile.
    """
    if connection.closed or connection.invalidated or connection.get_transaction() is not opened:
        return False
    return has_open_transaction(connection) is False


def _has_ended(connection: Connection, opened: RootTransaction | None) -> bool:
    if connection.closed or connection.get_transaction() is not opened:
        return True
    return not connection.invalidated and has_open_transaction(connection) is False


def _closed(error: Exception) -> TransactionEnded:
    ended = TransactionEnded()
    ended.__cause__ = error
    return ended


def _see_that_it_stands(session: Session, run: Run) -> None:
    """Code that swallows an error may have nothing left to commit, and COMMIT would not say so.

    PostgreSQL ends a transaction with an error in it by a rollback, and SQLite has rolled back already after some.
    """
    connection = writing_connection(session)
    try:
        stands = run.stands(connection)
    except DBAPIError:
        stands = False
    if not stands:
        error = _failed.get(connection, "the driver's own")
        raise RuntimeError(f"{run.origin.name} went on after an error that undid all its work: {error}")


def _of_opening(error: BaseException) -> Result:
    """Nothing has run yet, so whatever failed is the database's, and nothing is held against the code.

    Unless waiting cannot mend it, as with a connection that commits by itself: then somebody must be told.
    """
    if not isinstance(error, Exception) or not may_pass(error):
        return Result(Came.FAILED, error)
    return Result(Came.REPEAT if is_repeatable(error) else Came.OUTAGE, error)


def _of_code(error: BaseException, *, lost: bool, ended: bool, repeats: bool) -> Result:
    """Only a lost connection of ours is an outage: the code may well have talked to other servers.

    What the database says counts wherever it stands: in a group, or behind the error that the code made of it.
    """
    link = _broken_link(error, lost=lost)
    if link is not None:
        return Result(Came.OUTAGE, link, ended, began=True)
    return Result(Came.REPEAT if repeats else Came.FAILED, error, ended)


def _broken_link(error: BaseException, *, lost: bool) -> BaseException | None:
    return next(filter(is_disconnect, behind(error)), None) if lost else None


def _over_limit(run: Run, link: BaseException) -> TxPatternsError:
    """The database has ended a transaction that did nothing for as long as the code may take at most."""
    took = f"{run.origin.name} took longer than {run.limit}, and the database ended its transaction."
    over = run.origin.over_limit(took)
    over.__cause__ = link
    mark(over, run.origin.place)
    return over
