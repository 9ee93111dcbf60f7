"""Which of a session's connections its entries are written on: where its own writes go.

A session may have several: reads of a replica beside the writes, or two databases.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from txpatterns.database.dialects import has_written
from txpatterns.database.sessions import writing_bind, writing_connection
from txpatterns.errors import WrongDatabase

_CONNECTIONS = "txpatterns.connections"

AtHome = Callable[[Connection], bool]
"""Whether a connection is one of an engine that belongs to the entries."""


def begun(session: Session, connection: Connection) -> None:
    """Note that a session has begun a transaction on a connection."""
    connections: list[Connection] = session.info.setdefault(_CONNECTIONS, [])
    if connection not in connections:
        connections.append(connection)


def connections_of(session: Session) -> list[Connection]:
    """Give the connections that a session has begun a transaction on."""
    found: list[Connection] = session.info.get(_CONNECTIONS, [])
    return found


def forget_connections(session: Session) -> None:
    """Take the notes about a session's transaction away."""
    session.info.pop(_CONNECTIONS, None)


def destination_of(session: Session, at_home: AtHome) -> Connection | None:
    """Give the one of a session's connections that its entries are written on; None if there is none yet."""
    connections = connections_of(session)
    for connection in connections:
        if at_home(connection):
            return connection
    try:
        bind = writing_bind(session)
    except UnboundExecutionError:  # a session that knows engines only by mapped class
        return connections[0] if len(connections) == 1 else None
    return next((connection for connection in connections if bind in (connection, connection.engine)), None)


def open_destination(session: Session) -> None:
    """Let a session begin where it writes.

    Raises:
        WrongDatabase: it does not say where that is.
    """
    try:
        writing_connection(session)
    except UnboundExecutionError:
        session.flush()  # what it writes says where
        if len(connections_of(session)) != 1:
            raise WrongDatabase(
                "This session does not say which engine the tables of txpatterns are on.",
                fix="Name the one that it writes to: Session(bind=engine, binds={...}).",
            ) from None


def is_destination(session: Session, connection: Connection, at_home: AtHome) -> bool:
    """Whether a session's entries are written on this of its connections, whose commit begins.

    Raises:
        WrongDatabase: the session has written on another, too, or does not say where it writes.
    """
    connections = connections_of(session)
    if session.twophase or not any(other is not connection for other in connections):
        return True
    destination = destination_of(session, at_home)
    for other in connections:
        if other is not destination and other.in_transaction() and has_written(other):
            raise WrongDatabase(
                "This session commits on several databases one after the other, so what was "
                "added could be lost between them.",
                fix="Use Session(twophase=True), or write to one database in the transaction that sends.",
            )
    if destination is None:
        raise WrongDatabase(
            "This session has read on several connections, and none of them is where it would write.",
            fix="Let its get_bind() send an UPDATE to the engine with the tables of txpatterns.",
        )
    return destination is connection
