"""Sessions as the library gives them out: once they are over, whoever still uses them is told."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.session import SessionTransactionState

from txpatterns.errors import SessionOver

_OURS: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}


class GivenSession(Session):
    """A session that is over when its maker says so: a task that was left running with it is told, not ignored.

    While its transaction is being committed it takes no object any more: that would be part of no transaction.
    """


@event.listens_for(GivenSession, "before_attach")
def _refuse_during_commit(session: Session, _instance: object) -> None:
    transaction = session.get_transaction()
    if transaction is not None and transaction._state is SessionTransactionState.PREPARED:  # noqa: SLF001 - told nowhere else
        raise SessionOver


def given_session(engine: Engine, **options: Any) -> Session:
    """Make a session that is closed for good when it is closed. Objects stay readable after the commit."""
    return GivenSession(engine, **{**_OURS, **options})


def given_async_session(engine: AsyncEngine, **options: Any) -> AsyncSession:
    """Make the same for an event loop."""
    return AsyncSession(engine, **{"sync_session_class": GivenSession, **_OURS, **options})
