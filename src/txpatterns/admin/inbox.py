"""What an operator asks of the inbox: what waits at which handler, and what became of one message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.inbox.schema import State, inbox_table, inbox_waiting_table

STATES = tuple(State)

_waiting = inbox_waiting_table.c
_LISTED = (
    _waiting.message_id,
    _waiting.consumer,
    _waiting.state,
    _waiting.topic,
    _waiting.type,
    _waiting.key,
    _waiting.occurred_at,
    _waiting.attempts,
    _waiting.due_at,
    _waiting.error,
)


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One message at one handler that has not handled it yet. ``state`` says why it waits."""

    message_id: str
    consumer: str
    state: str
    topic: str
    type: str
    key: str | None
    occurred_at: datetime
    attempts: int
    due_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Handled:
    """A message whose effect is committed at one handler, or that was dropped there."""

    consumer: str
    processed_at: datetime


@dataclass(frozen=True, slots=True)
class AtHandlers:
    """What is known of one message at all handlers; with what it carries, while it waits at one of them."""

    waiting: list[InboxEntry]
    handled: list[Handled]
    headers: str | None
    payload: bytes | None
    content_type: str | None


def list_inbox(
    connection: Connection,
    *,
    state: str | None = None,
    consumer: str | None = None,
    topic: str | None = None,
    limit: int = 50,
) -> list[InboxEntry]:
    """List what was received and is not handled yet, the oldest first, at most ``limit``.

    ``state`` narrows it to ``retrying``, ``behind``, ``parked`` or ``skipped``.
    """
    wanted = {_waiting.state: state, _waiting.consumer: consumer, _waiting.topic: topic}
    conditions = [column == value for column, value in wanted.items() if value is not None]
    query = sa.select(*_LISTED).where(*conditions).order_by(_waiting.id).limit(limit)
    return [InboxEntry(**row) for row in connection.execute(query).mappings()]


def find_at_handlers(connection: Connection, message_id: str) -> AtHandlers:
    """Tell at which handlers a message waits, and which have handled it."""
    query = sa.select(*_LISTED).where(_waiting.message_id == message_id).order_by(_waiting.id)
    waiting = [InboxEntry(**row) for row in connection.execute(query).mappings()]
    done = sa.select(inbox_table.c.consumer, inbox_table.c.processed_at).where(inbox_table.c.message_id == message_id)
    handled = [Handled(*row) for row in connection.execute(done.order_by(inbox_table.c.processed_at))]
    carried = sa.select(_waiting.headers, _waiting.payload, _waiting.content_type)
    first = connection.execute(carried.where(_waiting.message_id == message_id).limit(1)).first()
    if first is None:
        return AtHandlers(waiting, handled, None, None, None)
    return AtHandlers(waiting, handled, first.headers, bytes(first.payload), first.content_type)
