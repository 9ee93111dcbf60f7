"""What an operator asks of the outbox: what is there, and what became of one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.outbox.schema import outbox_table, sent_table, waiting_table

PENDING, SENT, DEAD = "pending", "sent", "dead"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message of the outbox. ``state`` is ``pending``, one of the waiting states, ``sent`` or ``dead``."""

    id: str
    state: str
    topic: str
    type: str
    key: str | None
    occurred_at: datetime
    position: int | None = None
    attempts: int = 0
    due_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A message with what it carries."""

    entry: OutboxEntry
    headers: str
    payload: bytes
    content_type: str


def list_outbox(
    connection: Connection, *, state: str | None = None, topic: str | None = None, limit: int = 50
) -> list[OutboxEntry]:
    """List what is not published yet, the oldest first, at most ``limit``; or what was sent, where that is kept.

    ``state`` narrows it to ``pending``, ``scheduled``, ``retrying``, ``skipped``, ``behind``, ``parked`` or ``sent``.
    """
    found: list[OutboxEntry] = []
    if state in (None, PENDING):
        found += _entries(connection, outbox_table, topic, limit, PENDING)
    if state not in (PENDING, SENT):
        wanted = None if state is None else waiting_table.c.state == state
        found += _entries(connection, waiting_table, topic, limit - len(found), None, wanted)
    if state == SENT:
        found += _entries(connection, sent_table, topic, limit, SENT)
    return found


def find_message(connection: Connection, message_id: str) -> Found | None:
    """Find a message wherever it is: in the outbox, waiting, sent, or dead on its way out."""
    for table, state in ((outbox_table, PENDING), (waiting_table, None), (sent_table, SENT)):
        row = connection.execute(sa.select(table).where(table.c.message_id == message_id)).mappings().first()
        if row is not None:
            return _found(row, state)
    dead = sa.select(dead_letter_table).where(
        dead_letter_table.c.message_id == message_id, dead_letter_table.c.consumer.is_(None)
    )
    row = connection.execute(dead.order_by(dead_letter_table.c.id.desc())).mappings().first()
    return None if row is None else _found(row, DEAD)


def _entries(
    connection: Connection,
    table: sa.Table,
    topic: str | None,
    limit: int,
    state: str | None,
    wanted: sa.ColumnElement[bool] | None = None,
) -> list[OutboxEntry]:
    if limit <= 0:
        return []
    without_contents = [column for column in table.columns if column.name not in ("payload", "headers")]
    query = sa.select(*without_contents).order_by(table.c.occurred_at, table.c.message_id).limit(limit)
    if state == PENDING:
        query = sa.select(*without_contents).order_by(table.c.position).limit(limit)
    if topic is not None:
        query = query.where(table.c.topic == topic)
    if wanted is not None:
        query = query.where(wanted)
    return [_entry(dict(row), state) for row in connection.execute(query).mappings()]


def _entry(row: Mapping[str, Any], state: str | None) -> OutboxEntry:
    return OutboxEntry(
        id=row["message_id"],
        state=state or row["state"],
        topic=row["topic"],
        type=row["type"],
        key=row["key"],
        occurred_at=row["occurred_at"],
        position=row["position"],
        attempts=row.get("attempts", 0),
        due_at=row.get("due_at"),
        error=row.get("error"),
    )


def _found(row: RowMapping, state: str | None) -> Found:
    return Found(_entry(dict(row), state), row["headers"], bytes(row["payload"]), row["content_type"])
