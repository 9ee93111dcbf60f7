"""Adding to a transaction what its commit is to write, taking it back, and looking at it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from txpatterns.database.deferred.engine_events import add_to_connection, refuse_idle, savepoints_on, watch_engine
from txpatterns.database.deferred.entries import Entry
from txpatterns.database.deferred.session_events import add_to_session, savepoints_of, watch_sessions
from txpatterns.database.deferred.units import commit_of, unit_of
from txpatterns.errors import AddRefused

AnyTransaction = Session | AsyncSession | Connection | AsyncConnection


def watch(engine: Engine) -> None:
    """Listen to all sessions, and to an engine that a writer works on; to others from the first entry on."""
    watch_sessions()
    watch_engine(engine)


def add(transaction: Session | Connection, entry: Entry[Any]) -> None:
    """Keep an entry until the transaction commits, which writes it; without any I/O.

    Raises:
        NotTransactional: there is no transaction, it has failed, or its commit has come past entries of this kind.
        SavepointsUnsafe: it is in a savepoint, on a SQLite engine that begins transactions by itself.
        WrongDatabase: its commit runs, and nothing says where the session writes.
    """
    if isinstance(transaction, Session):
        add_to_session(transaction, entry)
    else:
        add_to_connection(transaction, entry)


def cancel(connection: Connection, kind: int, id_: str) -> bool:
    """Do not write an entry after all, added to this connection or to a session on it; says whether it was there.

    Raises:
        NotTransactional: the connection has not begun a transaction.
    """
    refuse_idle(connection)
    commit = commit_of(connection)
    return commit is not None and any(
        unit.cancel(kind, id_, savepoints_on(connection) if unit.session is None else savepoints_of(unit.session))
        for unit in commit.units
    )


def pending(transaction: Session | Connection, kind: int) -> list[Any]:
    """Give what would be written of a kind now: of a session its own, of a connection all that its commit writes."""
    if isinstance(transaction, Session):
        units = [unit_of(transaction)]
    else:
        commit = commit_of(transaction)
        units = [] if commit is None else [*commit.units]
    live = (entry for unit in units if unit is not None for entry in unit.live)
    return [entry.content for entry in live if entry.writer.kind == kind]


def plain(transaction: AnyTransaction) -> Session | Connection:
    """Give the plain side of what was given.

    Raises:
        AddRefused: it is no session and no open connection.
    """
    match transaction:
        case AsyncSession():
            return transaction.sync_session
        case AsyncConnection(sync_connection=Connection() as connection):
            return connection
        case Session() | Connection():
            return transaction
        case _:
            fix = "Give a Session, AsyncSession, Connection or AsyncConnection; call a scoped_session first."
            raise no_transaction(transaction, fix=fix)


def no_transaction(given: object, *, fix: str) -> AddRefused:
    """Say that this is nothing that could be added to."""
    return AddRefused(f"{type(given).__name__} is no session and no open connection for this.", fix=fix)
