"""What an engine tells of its connections' transactions, and adding to a connection.

The connection is the one that tells, whoever works on it: a session's commit comes here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from txpatterns.database.deferred.destination import destination_of, is_destination
from txpatterns.database.deferred.entries import Entry
from txpatterns.database.deferred.units import (
    Commit,
    Scope,
    Unit,
    commit_of,
    new_commit_of,
    refuse_unsafe_savepoints,
)
from txpatterns.database.dialects import has_open_transaction
from txpatterns.errors import NotTransactional

_watched: WeakSet[Engine] = WeakSet()

_observed: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()
"""Connections whose commit somebody wants to know of, and whether there may have been one."""


def watch_engine(engine: Engine) -> None:
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
    event.listen(engine, "rollback_twophase", _on_rollback_twophase)
    event.listen(engine, "savepoint", _on_savepoint)
    event.listen(engine, "rollback_savepoint", _on_rollback_savepoint)


def add_to_connection(connection: Connection, entry: Entry[Any]) -> None:
    """Keep an entry under the connection's present savepoints, until its transaction commits."""
    refuse_idle(connection)
    watch_engine(connection.engine)
    commit = new_commit_of(connection)
    commit.accept(entry)
    scope = savepoints_on(connection)
    if scope:
        refuse_unsafe_savepoints(connection)
    commit.own_unit().entries.append((scope, entry))


def attach(unit: Unit, connection: Connection) -> Commit:
    """Let a connection's commit write a session's entries."""
    watch_engine(connection.engine)
    commit = new_commit_of(connection)
    if unit not in commit.units:
        commit.units.append(unit)
    return commit


def detach(unit: Unit, connections: Sequence[Connection]) -> None:
    """Let go of a session: its connection may live longer than it, and must not keep it alive."""
    for connection in connections:
        commit = commit_of(connection)
        if commit is not None and unit in commit.units:
            commit.units.remove(unit)


def observe(connection: Connection) -> None:
    """Take note of a commit of a connection's transaction, or of an end that nobody has told of, from now on.

    This is no listener of its own: one that joins while a commit of the same engine is being told of would break that.
    """
    watch_engine(connection.engine)
    _observed[connection] = False


def end_observation(connection: Connection) -> bool:
    """End the observation; says whether what was done on the connection since it began may stand."""
    return _observed.pop(connection, False)


def refuse_idle(connection: Connection) -> None:
    """Raise NotTransactional on a connection that has not begun a transaction."""
    if not connection.in_transaction():
        raise NotTransactional("The connection has not begun a transaction.", fix="Use `with engine.begin() as conn`.")


def savepoints_on(connection: Connection) -> Scope:
    """Give the savepoints that a connection is in, those of the sessions on it included."""
    found: list[object] = []
    savepoint: Any = connection.get_nested_transaction()
    while savepoint is not None:
        found.append((id(connection), savepoint._savepoint))  # noqa: SLF001 - the events tell this name; no public one leads to it
        savepoint = savepoint._previous_nested  # noqa: SLF001
    return tuple(found)


def _units_on(connection: Connection) -> Sequence[Unit]:
    commit = commit_of(connection)
    return () if commit is None else commit.units


def _on_commit(connection: Connection) -> None:
    commit = commit_of(connection)
    if commit is not None:
        try:
            commit.write(
                connection,
                lambda unit: unit.session is None or is_destination(unit.session, connection, unit.at_home),
            )
        except BaseException as error:
            _abandon(connection, error)
            raise
        _tell(connection, commit.units)
    _note(connection)


def _note(connection: Connection) -> None:
    if connection in _observed:
        _observed[connection] = True


def _tell(connection: Connection, units: Sequence[Unit]) -> None:
    """Tell of what this commit makes visible, except of a session that tells of its commit itself."""
    for unit in units:
        if unit.session is None or unit.session.bind is connection:
            unit.committed()


def _abandon(connection: Connection, error: BaseException) -> None:
    """End the transaction: SQLAlchemy takes a COMMIT that raised for one that was tried, and rolls nothing back."""
    _on_rollback(connection)
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
    commit = commit_of(connection)
    if commit is not None:
        commit.write(
            connection,
            lambda unit: unit.session is None or destination_of(unit.session, unit.at_home) in (None, connection),
        )
    _note(connection)


def _on_commit_twophase(connection: Connection, _xid: Any, is_prepared: bool) -> None:
    if is_prepared:
        _tell(connection, _units_on(connection))
        _note(connection)
    else:
        _on_commit(connection)


def _on_rollback(connection: Connection) -> None:
    for unit in _units_on(connection):
        unit.clear()
    if connection in _observed and not connection.invalidated and has_open_transaction(connection) is False:
        _note(connection)  # there was nothing left to roll back


def _on_rollback_twophase(connection: Connection, _xid: Any, _is_prepared: bool) -> None:
    _on_rollback(connection)


def _on_savepoint(connection: Connection, _name: str | None) -> None:
    if any(unit.entries for unit in _units_on(connection)):
        refuse_unsafe_savepoints(connection)


def _on_rollback_savepoint(connection: Connection, name: str, _context: object) -> None:
    for unit in _units_on(connection):
        unit.drop((id(connection), name))
