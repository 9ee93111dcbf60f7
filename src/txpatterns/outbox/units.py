"""What was added to a unit of work and is not written yet, kept right through savepoints.

Nothing is written at ``add``. Entries wait with the savepoint that they were added under: releasing it hands them
to the one around it, rolling it back drops them. The engine's ``commit`` event writes what is left, last of all,
so that positions follow the order in which transactions locked their rows.
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

from txpatterns.errors import NotTransactional, WrongDatabase
from txpatterns.messages import Message
from txpatterns.outbox.schema import outbox_table

_UNIT = "txpatterns.outbox"
_CONNECTIONS = "txpatterns.connections"


@dataclass(frozen=True, slots=True)
class Entry:
    """One message to be written when the transaction commits."""

    message: Message
    delay: timedelta | None
    strict: bool
    write: Callable[[Connection, Sequence[Entry]], None]
    committed: Callable[[], None]


class Unit:
    """The entries of one session's or connection's transaction, each with the savepoint it was added under."""

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self.entries: list[tuple[object, Entry]] = []
        self.savepoints: list[str] = []
        self.written: set[Callable[[], None]] = set()

    def add(self, scope: object, entry: Entry) -> None:
        self.entries.append((scope, entry))

    def remove(self, message_id: str) -> bool:
        """Forget a message that is not written yet; says whether it was there."""
        kept = [(scope, entry) for scope, entry in self.entries if entry.message.id != message_id]
        found = len(kept) < len(self.entries)
        self.entries[:] = kept
        return found

    def release(self, scope: object, to: object) -> None:
        self.entries[:] = [(to if at == scope else at, entry) for at, entry in self.entries]

    def drop(self, scopes: Sequence[object]) -> None:
        self.entries[:] = [(at, entry) for at, entry in self.entries if at not in scopes]

    def clear(self) -> None:
        self.entries.clear()
        self.savepoints.clear()
        self.written.clear()

    def write(self, connection: Connection) -> None:
        """Write what is left, through the outbox that each entry came from."""
        entries = [entry for _, entry in self.entries]
        self.entries.clear()
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
    """Keep an entry under the session's present savepoint, until the transaction commits."""
    unit = unit_of(session)
    if unit is None:
        unit = session.info[_UNIT] = Unit(session)
    unit.add(session.get_nested_transaction() or session.get_transaction() or session.begin(), entry)
    if isinstance(session.bind, Connection):
        _attach(unit, session.bind)
    for connection in session.info.get(_CONNECTIONS, ()):
        _attach(unit, connection)


def add_to_connection(connection: Connection, entry: Entry) -> None:
    """Keep an entry under the connection's present savepoint, until its transaction commits."""
    if not connection.in_transaction():
        raise NotTransactional("The connection has not begun a transaction.", fix="Use `with engine.begin() as conn`.")
    watch(connection.engine)
    unit = next((unit for unit in _units.get(connection, ()) if unit.session is None), None)
    if unit is None:
        unit = Unit()
        _attach(unit, connection)
    savepoint = getattr(connection.get_nested_transaction(), "_savepoint", None)
    if savepoint is not None and savepoint not in unit.savepoints:
        unit.savepoints.append(savepoint)
    unit.add(savepoint, entry)


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
    event.listen(engine, "rollback", _on_rollback)
    event.listen(engine, "savepoint", _on_savepoint)
    event.listen(engine, "release_savepoint", _on_release)
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


# What the engine tells: the connection is the sender, and a session's savepoints are the session's own business.


def _on_commit(connection: Connection) -> None:
    for unit in _units.get(connection, ()):
        _refuse_two_transactions(unit, connection)
        unit.write(connection)
        if unit.session is None or unit.session.bind is connection:
            unit.committed()


def _on_prepare(connection: Connection, _xid: Any) -> None:
    for unit in _units.get(connection, ()):
        unit.write(connection)


def _on_rollback(connection: Connection) -> None:
    for unit in _units.get(connection, ()):
        unit.clear()


def _on_savepoint(connection: Connection, name: str | None) -> None:
    for unit in _units.get(connection, ()):
        if unit.session is None and name is not None:
            unit.savepoints.append(name)


def _on_release(connection: Connection, name: str, _context: object) -> None:
    for unit in _units.get(connection, ()):
        if name in unit.savepoints:
            place = unit.savepoints.index(name)
            unit.release(name, unit.savepoints[place - 1] if place else None)
            del unit.savepoints[place:]


def _on_rollback_savepoint(connection: Connection, name: str, _context: object) -> None:
    for unit in _units.get(connection, ()):
        if unit.session is not None:
            continue
        if name in unit.savepoints:
            place = unit.savepoints.index(name)
            unit.drop(unit.savepoints[place:])
            del unit.savepoints[place:]
        else:
            # It was opened before anything was added, so all that was added is inside it.
            unit.clear()


# What the session tells.


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    connections: list[Connection] = session.info.setdefault(_CONNECTIONS, [])
    if connection not in connections:
        connections.append(connection)
    unit = unit_of(session)
    if unit is not None and unit.entries:
        _attach(unit, connection)


def _before_commit(session: Session) -> None:
    unit = unit_of(session)
    if unit is None or session.get_nested_transaction() is not None:
        return
    if isinstance(session.bind, Connection):
        # Somebody else may commit this connection, or roll it back as test fixtures do: write now, and be seen.
        session.flush()
        unit.write(session.connection())
    elif unit.entries and not session.info.get(_CONNECTIONS):
        session.connection(bind_arguments={"clause": outbox_table})


def _after_commit(session: Session) -> None:
    unit = unit_of(session)
    if unit is not None and session.get_nested_transaction() is None:
        unit.committed()


def _after_rollback(session: Session) -> None:
    unit = unit_of(session)
    if unit is not None:
        nested = session.get_nested_transaction()
        unit.drop([nested]) if nested is not None else unit.clear()


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    unit = unit_of(session)
    if transaction.parent is None:
        session.info.pop(_CONNECTIONS, None)
        if unit is not None:
            unit.clear()
    elif unit is not None and transaction.nested:
        unit.release(transaction, session.get_nested_transaction() or session.get_transaction())


def _refuse_two_transactions(unit: Unit, connection: Connection) -> None:
    session = unit.session
    if session is None or session.twophase or not unit.entries:
        return
    others = [c for c in session.info.get(_CONNECTIONS, ()) if c is not connection]
    if others:
        raise WrongDatabase(
            "This session commits on several databases one after the other, so a message could be lost between them.",
            fix="Use Session(twophase=True), or write to one database in the transaction that sends.",
        )
