"""What a session tells of its transaction, and adding to a session.

A session's savepoints are told here; those that somebody makes on its connection by hand are the engine's to tell.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction

from txpatterns.database.deferred.destination import (
    begun,
    connections_of,
    destination_of,
    forget_connections,
    open_destination,
)
from txpatterns.database.deferred.engine_events import add_to_connection, attach, detach, savepoints_on
from txpatterns.database.deferred.entries import Entry
from txpatterns.database.deferred.units import (
    Scope,
    Unit,
    new_commit_of,
    new_unit_of,
    refuse_unsafe_savepoints,
    unit_of,
)
from txpatterns.errors import NotTransactional


def watch_sessions() -> None:
    """Listen to the savepoints of all sessions, once; a session without entries pays one dictionary entry."""
    if event.contains(Session, "after_begin", _after_begin):
        return
    event.listen(Session, "after_begin", _after_begin)
    event.listen(Session, "before_commit", _before_commit)
    event.listen(Session, "after_commit", _after_commit)
    event.listen(Session, "after_rollback", _after_rollback)
    event.listen(Session, "after_transaction_end", _after_end)


def add_to_session(session: Session, entry: Entry[Any]) -> None:
    """Keep an entry under the session's present savepoints, until the transaction commits."""
    transaction = session.get_nested_transaction() or session.get_transaction() or _begun(session)
    if not transaction.is_active:
        raise NotTransactional("The session's transaction has failed or ended.", fix="Roll the session back first.")
    unit = new_unit_of(session)
    scope = savepoints_of(session)
    for connection in _connections_under(session):
        if scope:
            refuse_unsafe_savepoints(connection)
        attach(unit, connection).accept(entry)
    unit.entries.append((scope, entry))
    if unit.is_committing and destination_of(session, unit.at_home) is None:
        open_destination(session)


def savepoints_of(session: Session) -> Scope:
    """Give the savepoints that a session is in: its own, and those of its connections."""
    found: list[object] = []
    at = session.get_nested_transaction()
    while at is not None:
        if at.nested:
            found.append(at)
        at = at.parent
    for connection in _connections_under(session):
        found += savepoints_on(connection)
    return tuple(found)


def _connections_under(session: Session) -> list[Connection]:
    """Give the connections that a session has begun a transaction on, or is joined to."""
    connections = connections_of(session)
    bind = session.bind
    return [bind, *connections] if isinstance(bind, Connection) and bind not in connections else connections


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    begun(session, connection)
    unit = unit_of(session)
    if unit is not None and unit.entries:
        if session.get_nested_transaction() is not None:
            refuse_unsafe_savepoints(connection)
        attach(unit, connection)


def _before_commit(session: Session) -> None:
    joined = isinstance(session.bind, Connection) and session.get_nested_transaction() is None
    if joined:
        session.flush()  # a listener may add entries while it runs
    unit = new_unit_of(session)
    unit.is_committing = session.get_nested_transaction() is None
    if not unit.entries:
        return
    if joined:
        # Somebody else may commit this connection, or roll it back as test fixtures do: write now, and be seen.
        _write_now(session, session.connection())
    elif destination_of(session, unit.at_home) is None:
        open_destination(session)


def _after_commit(session: Session) -> None:
    unit, savepoint = unit_of(session), session.get_nested_transaction()
    if unit is None:
        return
    if savepoint is not None:
        unit.release(savepoint)
        return
    if unit.entries:
        # The transaction goes on in other hands, and a listener added these during the last flush.
        _write_now(session, connections_of(session)[0])
    unit.is_committing = False
    if unit.written:
        _tell(session, unit)


def _after_rollback(session: Session) -> None:
    unit = unit_of(session)
    if unit is not None:
        nested = session.get_nested_transaction()
        unit.drop(nested) if nested is not None else unit.clear()


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    unit = unit_of(session)
    if transaction.parent is None:
        connections = _connections_under(session)
        forget_connections(session)
        if unit is not None:
            left, has_failed = unit.live, unit.has_failed
            unit.clear()
            detach(unit, connections)
            if left and isinstance(session.bind, Connection) and _goes_on(session, session.bind):
                for entry in left:
                    add_to_connection(session.bind, entry)
                new_commit_of(session.bind).own_unit().has_failed |= has_failed
    elif unit is not None and transaction.nested:
        unit.drop(transaction)  # it was closed without being released, which rolls it back


def _write_now(session: Session, connection: Connection) -> None:
    unit = new_unit_of(session)
    attach(unit, connection).write(connection, lambda one: one is unit)


def _tell(session: Session, unit: Unit) -> None:
    """Tell that it is committed; where the transaction goes on in other hands, its commit will."""
    for connection in connections_of(session):
        if connection.in_transaction():
            own = new_commit_of(connection).own_unit()
            for writer, contents in unit.written.items():
                own.hand(writer, contents)
            unit.written.clear()
    unit.committed()


def _goes_on(session: Session, connection: Connection) -> bool:
    """Whether what a session has written stays in a transaction that others end, though it was merely closed."""
    joined = session.join_transaction_mode
    lent = joined == "rollback_only" or (joined == "conditional_savepoint" and not connection.in_nested_transaction())
    return lent and connection.in_transaction()


def _begun(session: Session) -> SessionTransaction:
    if not session.autobegin:
        raise NotTransactional("The session has not begun a transaction.", fix="Use `with session.begin():`.")
    return session.begin()
