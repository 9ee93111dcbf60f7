"""What is in the tables of a test: what waits, until when, and what was given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.inbox.schema import inbox_waiting_table
from txpatterns.outbox.schema import outbox_table, waiting_table


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up."""

    message_id: str
    consumer: str | None
    """Who could not handle it; None when it could not be published."""
    type: str
    key: str | None
    attempts: int
    reason: str
    error: str


def dead_letters(connection: Connection) -> list[DeadLetter]:
    """Read all dead letters, the oldest first."""
    table = dead_letter_table.c
    columns = (table.message_id, table.consumer, table.type, table.key, table.attempts, table.reason, table.error)
    return [DeadLetter(*row) for row in connection.execute(sa.select(*columns).order_by(table.id))]


def next_due(connection: Connection) -> datetime | None:
    """Give the instant at which the next waiting message is due."""
    found = [
        connection.execute(sa.select(sa.func.min(table.c.due_at, type_=table.c.due_at.type))).scalar()
        for table in (waiting_table, inbox_waiting_table)
    ]
    return min((instant for instant in found if instant is not None), default=None)


def what_is_left(connection: Connection) -> list[str]:
    """Say in words what is not finished."""
    lines = [
        f"outbox: {row.type} {row.message_id}, key {row.key}"
        for row in connection.execute(sa.select(outbox_table).order_by(outbox_table.c.position))
    ]
    lines += [
        f"outbox, {row.state}: {row.type} {row.message_id}, key {row.key}, {row.attempts} attempts, {_until(row)}"
        for row in connection.execute(sa.select(waiting_table))
    ]
    lines += [
        f"{row.consumer}, {row.state}: {row.type} {row.message_id}, key {row.key}, "
        f"{row.attempts} attempts, {_until(row)}"
        for row in connection.execute(sa.select(inbox_waiting_table).order_by(inbox_waiting_table.c.id))
    ]
    return lines


def _until(row: sa.Row[tuple[object, ...]]) -> str:
    due = f"due {row.due_at}" if row.due_at else "behind another"
    return f"{due} ({row.error})" if row.error else due
