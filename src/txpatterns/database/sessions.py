"""The sessions that the library gives out: of the application's own factory where it has one, and over when closed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.session import SessionTransactionState

from txpatterns.database.engines import AnyEngine, sync_side
from txpatterns.database.schema import database_table
from txpatterns.errors import ConfigurationError, SessionOver

AsyncSessions = async_sessionmaker[Any]
PlainSessions = sessionmaker[Any]

# Sessions that send reads to a replica know a write by the class of its statement, and an INSERT is often forgotten.
_ANY_WRITE = sa.update(database_table)


class GivenSession(Session):
    """A session that is over when its maker says so: a task that was left running with it is told, not ignored.

    While its transaction is being committed it takes no object any more: that would be part of no transaction.
    """


@event.listens_for(GivenSession, "before_attach")
def _refuse_during_commit(session: Session, _instance: object) -> None:
    transaction = session.get_transaction()
    if transaction is not None and transaction._state is SessionTransactionState.PREPARED:  # noqa: SLF001 - told nowhere else
        raise SessionOver


def sessions_of(factory: AsyncSessions | PlainSessions | None, engine: AnyEngine) -> AsyncSessions | PlainSessions:
    """Give the factory of the sessions on an engine: the application's, or one whose objects outlive the commit.

    Raises:
        ConfigurationError: the factory is of the other kind, or bound to another engine.
    """
    kind: type[Any] = async_sessionmaker if isinstance(engine, AsyncEngine) else sessionmaker
    if factory is None:
        ours = "sync_session_class" if kind is async_sessionmaker else "class_"
        made: AsyncSessions | PlainSessions = kind(engine, expire_on_commit=False, **{ours: GivenSession})
        return made
    if not isinstance(factory, kind):
        raise ConfigurationError(
            f"{type(factory).__name__} makes no sessions for {type(engine).__name__}.",
            fix=f"Give {'an' if kind is async_sessionmaker else 'a'} {kind.__name__} that is bound to this engine.",
        )
    bind = factory.kw.get("bind")
    if bind is not None and bind is not engine and getattr(sync_side(bind), "pool", None) is not sync_side(engine).pool:
        raise ConfigurationError(
            "The sessionmaker is bound to another engine than the Database.",
            fix="Give one engine to both: Database(engine, sessions=async_sessionmaker(engine, ...)).",
        )
    checked: AsyncSessions | PlainSessions = factory
    return checked


PLAIN = sessionmaker(class_=GivenSession, expire_on_commit=False)
"""Of plain sessions beside an asynchronous engine, where the application has no factory of its own for them."""


def opened(factory: AsyncSessions | PlainSessions, engine: AnyEngine, options: dict[str, Any]) -> Any:
    """Open a session that is over when it is closed, unless its factory says otherwise.

    A factory that is not bound gets the engine.
    """
    if "close_resets_only" not in factory.kw:
        options.setdefault("close_resets_only", False)
    if factory.kw.get("bind") is None:
        options.setdefault("bind", engine)
    return factory(**options)


def writing_bind(session: Session) -> Engine | Connection:
    """Say where this session writes. Raises UnboundExecutionError where it knows engines by mapped class only."""
    return session.get_bind(clause=_ANY_WRITE)


def writing_connection(session: Session, /, **options: Any) -> Connection:
    """Give the connection on which this session writes, in its transaction: of several, that of the primary."""
    if not session.in_transaction():
        session.begin()
    return session.connection(bind_arguments={"clause": _ANY_WRITE}, **options)


def unbound(factory: AsyncSessions | PlainSessions) -> AsyncSessions | PlainSessions:
    """Make a factory of the same class of sessions, with the same options, for whichever engine it is given."""
    kind: type[Any] = type(factory)
    made: AsyncSessions | PlainSessions = kind(**{**factory.kw, "bind": None, "class_": factory.class_})
    return made
