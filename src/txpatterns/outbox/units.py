"""What was added to a unit of work and is not written yet, kept right through savepoints.

Nothing is written at ``add``. Entries wait with the savepoints that they were added under: rolling one of these back
drops them. The engine's ``commit`` event writes what is left, last of all, so that positions follow the order in
which transactions locked their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from txpatterns.errors import NotTransactional
from txpatterns.messages import Message
from txpatterns.outbox.destination import (
    AtHome,
    begun,
    connections_of,
    destination_of,
    forget_connections,
    is_destination,
    open_destination,
)
from txpatterns.outbox.writer import refuse_unsafe_savepoints

Scope = tuple[object, ...]
"""The savepoints around an entry: a session's as objects, a connection's by name, which is never used again."""

_UNIT = "txpatterns.outbox"


@dataclass(frozen=True, slots=True)
class Entry:
    """One message to be written when the transaction commits."""

    message: Message
    delay: timedelta | None
    strict: bool
    write: Callable[[Connection, Sequence[Entry]], None]
    committed: Callable[[], None]
    at_home: AtHome


class Unit:
    """The entries of one session's or connection's transaction, each with the savepoints around it.

    A cancellation is kept in the same way: a savepoint that is rolled back takes it along.
    """

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self.entries: list[tuple[Scope, Entry]] = []
        self.cancelled: list[tuple[Scope, str]] = []
        self.written: set[Callable[[], None]] = set()
        self.is_committing = False
        """Whether the commit has begun: a listener may add messages while it runs."""

    @property
    def live(self) -> list[Entry]:
        """The entries that would be written now."""
        if not self.cancelled:
            return [entry for _, entry in self.entries]
        gone = {message_id for _, message_id in self.cancelled}
        return [entry for _, entry in self.entries if entry.message.id not in gone]

    def at_home(self, connection: Connection) -> bool:
        """Whether a connection is one of the engine of an outbox that the entries came from."""
        return any(entry.at_home(connection) for _, entry in self.entries)

    def cancel(self, message_id: str, scope: Scope) -> bool:
        """Do not write a message after all; says whether it was going to be written."""
        found = any(entry.message.id == message_id for entry in self.live)
        if found:
            self.cancelled.append((scope, message_id))
        return found

    def release(self, savepoint: object) -> None:
        self.entries[:] = [(_without(scope, savepoint), entry) for scope, entry in self.entries]
        self.cancelled[:] = [(_without(scope, savepoint), gone) for scope, gone in self.cancelled]

    def drop(self, savepoint: object) -> None:
        self.entries[:] = [(scope, entry) for scope, entry in self.entries if savepoint not in scope]
        self.cancelled[:] = [(scope, gone) for scope, gone in self.cancelled if savepoint not in scope]

    def clear(self) -> None:
        self.entries.clear()
        self.cancelled.clear()
        self.written.clear()
        self.is_committing = False

    def write(self, connection: Connection) -> None:
        """Write what is left, through the outbox that each entry came from."""
        entries = self.live
        self.entries.clear()
        self.cancelled.clear()
        while entries:
            write = entries[0].write
            write(connection, [entry for entry in entries if entry.write == write])
            self.written.add(entries[0].committed)
            entries = [entry for entry in entries if entry.write != write]

    def committed(self) -> None:
        """Tell the outboxes whose entries were written that they are visible now."""
        told, self.written = self.written, set()
        for tell in told:
            tell()


_watched: WeakSet[Engine] = WeakSet()
_units: WeakKeyDictionary[Connection, list[Unit]] = WeakKeyDictionary()
"""Which units a connection's commit writes; an entry goes with its connection."""


def add_to_session(session: Session, entry: Entry) -> None:
    """Keep an entry under the session's present savepoints, until the transaction commits."""
    transaction = session.get_nested_transaction() or session.get_transaction() or _begun(session)
    if not transaction.is_active:
        raise NotTransactional("The session's transaction has failed or ended.", fix="Roll the session back first.")
    unit = unit_of(session)
    if unit is None:
        unit = session.info[_UNIT] = Unit(session)
    scope = _savepoints_of(session)
    if isinstance(session.bind, Connection):
        _attach(unit, session.bind)
    for connection in connections_of(session):
        if scope:
            refuse_unsafe_savepoints(connection)
        _attach(unit, connection)
    unit.entries.append((scope, entry))
    if unit.is_committing and destination_of(session, unit.at_home) is None:
        open_destination(session)


def add_to_connection(connection: Connection, entry: Entry) -> None:
    """Keep an entry under the connection's present savepoints, until its transaction commits."""
    _refuse_idle(connection)
    watch(connection.engine)
    unit = next((unit for unit in _units.get(connection, ()) if unit.session is None), None)
    if unit is None:
        unit = Unit()
        _attach(unit, connection)
    scope = _savepoints_of(connection)
    if scope:
        refuse_unsafe_savepoints(connection)
    unit.entries.append((scope, entry))


def cancel(connection: Connection, message_id: str) -> bool:
    """Do not write a message after all, added to this connection or to a session on it; says whether it was there."""
    _refuse_idle(connection)
    return any(
        unit.cancel(message_id, _savepoints_of(connection if unit.session is None else unit.session))
        for unit in _units.get(connection, ())
    )


def pending(transaction: Session | Connection) -> list[Entry]:
    """Give what would be written now: of a session its own, of a connection all that its commit writes."""
    units = _units.get(transaction, ()) if isinstance(transaction, Connection) else (unit_of(transaction),)
    return [entry for unit in units if unit is not None for entry in unit.live]


def unit_of(session: Session) -> Unit | None:
    """Give the entries of a session that are not written yet."""
    return session.info.get(_UNIT)


def watch(engine: Engine) -> None:
    """Listen to an engine's commits and savepoints, once."""
    if engine in _watched:
        return
    _watched.add(engine)
    if event.contains(engine, "commit", _on_commit):
        return
    event.listen(engine, "commit", _on_commit)
    event.listen(engine, "prepare_twophase", _on_prepare)
    event.listen(engine, "commit_twophase", _on_commit_twophase)
    event.listen(engine, "rollback", _on_rollback)
    event.listen(engine, "savepoint", _on_savepoint)
    event.listen(engine, "rollback_savepoint", _on_rollback_savepoint)


def watch_sessions() -> None:
    """Listen to the savepoints of all sessions, once; a session without messages pays one dictionary entry."""
    if event.contains(Session, "after_begin", _after_begin):
        return
    event.listen(Session, "after_begin", _after_begin)
    event.listen(Session, "before_commit", _before_commit)
    event.listen(Session, "after_commit", _after_commit)
    event.listen(Session, "after_rollback", _after_rollback)
    event.listen(Session, "after_transaction_end", _after_end)


def _attach(unit: Unit, connection: Connection) -> None:
    watch(connection.engine)
    units = _units.setdefault(connection, [])
    if unit not in units:
        units.append(unit)


def _detach(unit: Unit, connections: Sequence[Connection]) -> None:
    """Let go of a session: its connection may live longer than it, and must not keep it alive."""
    for connection in connections:
        units = _units.get(connection)
        if units is not None and unit in units:
            units.remove(unit)


# What the engine tells: the connection is the sender, and a session's savepoints are the session's own business.


def _on_commit(connection: Connection) -> None:
    units = _units.get(connection, ())
    try:
        for unit in units:
            if unit.session is None or not unit.entries or is_destination(unit.session, connection, unit.at_home):
                unit.write(connection)
    except BaseException as error:
        _abandon(connection, error)
        raise
    for unit in units:
        if unit.session is None or unit.session.bind is connection:
            unit.committed()


def _abandon(connection: Connection, error: BaseException) -> None:
    """End the transaction: SQLAlchemy takes a COMMIT that raised for one that was tried, and rolls nothing back."""
    for unit in _units.get(connection, ()):
        unit.clear()
    if connection.invalidated:
        return
    if not isinstance(error, Exception):
        connection.invalidate()  # cancelled in the middle of a statement: nobody knows what the driver is doing
        return
    try:
        connection.dialect.do_rollback(connection.connection)
    except connection.dialect.loaded_dbapi.Error:
        connection.invalidate()


def _on_prepare(connection: Connection, _xid: Any) -> None:
    for unit in _units.get(connection, ()):
        if unit.session is None or destination_of(unit.session, unit.at_home) in (None, connection):
            unit.write(connection)


def _on_commit_twophase(connection: Connection, _xid: Any, is_prepared: bool) -> None:
    if not is_prepared:
        _on_commit(connection)


def _on_rollback(connection: Connection) -> None:
    for unit in _units.get(connection, ()):
        unit.clear()


def _on_savepoint(connection: Connection, _name: str | None) -> None:
    if any(unit.entries for unit in _units.get(connection, ())):
        refuse_unsafe_savepoints(connection)


def _on_rollback_savepoint(connection: Connection, name: str, _context: object) -> None:
    for unit in _units.get(connection, ()):
        if unit.session is None:
            unit.drop(name)


# What the session tells.


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    begun(session, connection)
    unit = unit_of(session)
    if unit is not None and unit.entries:
        if session.get_nested_transaction() is not None:
            refuse_unsafe_savepoints(connection)
        _attach(unit, connection)


def _before_commit(session: Session) -> None:
    joined = isinstance(session.bind, Connection) and session.get_nested_transaction() is None
    if joined:
        session.flush()  # a listener may add messages while it runs
    unit = unit_of(session)
    if unit is None:
        unit = session.info[_UNIT] = Unit(session)
    unit.is_committing = session.get_nested_transaction() is None
    if not unit.entries:
        return
    if joined:
        # Somebody else may commit this connection, or roll it back as test fixtures do: write now, and be seen.
        unit.write(session.connection())
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
        unit.write(connections_of(session)[0])
    unit.is_committing = False
    unit.committed()


def _after_rollback(session: Session) -> None:
    unit = unit_of(session)
    if unit is not None:
        nested = session.get_nested_transaction()
        unit.drop(nested) if nested is not None else unit.clear()


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    unit = unit_of(session)
    if transaction.parent is None:
        connections = forget_connections(session)
        if unit is not None:
            left = [entry for _, entry in unit.entries]
            unit.clear()
            _detach(unit, connections)
            if isinstance(session.bind, Connection) and _goes_on(session, session.bind):
                for entry in left:
                    add_to_connection(session.bind, entry)
    elif unit is not None and transaction.nested:
        unit.drop(transaction)  # it was closed without being released, which rolls it back


def _goes_on(session: Session, connection: Connection) -> bool:
    """Whether what a session has written stays in a transaction that others end, though it was merely closed."""
    joined = session.join_transaction_mode
    lent = joined == "rollback_only" or (joined == "conditional_savepoint" and not connection.in_nested_transaction())
    return lent and connection.in_transaction()


def _refuse_idle(connection: Connection) -> None:
    if not connection.in_transaction():
        raise NotTransactional("The connection has not begun a transaction.", fix="Use `with engine.begin() as conn`.")


def _begun(session: Session) -> SessionTransaction:
    if not session.autobegin:
        raise NotTransactional("The session has not begun a transaction.", fix="Use `with session.begin():`.")
    return session.begin()


def _savepoints_of(owner: Session | Connection) -> Scope:
    found: list[object] = []
    if isinstance(owner, Connection):
        savepoint: Any = owner.get_nested_transaction()
        while savepoint is not None:
            found.append(savepoint._savepoint)  # noqa: SLF001 - the events tell this name; no public one leads to it
            savepoint = savepoint._previous_nested  # noqa: SLF001
        return tuple(found)
    at = owner.get_nested_transaction()
    while at is not None:
        if at.nested:
            found.append(at)
        at = at.parent
    return tuple(found)


def _without(scope: Scope, savepoint: object) -> Scope:
    return tuple(one for one in scope if one is not savepoint) if savepoint in scope else scope
