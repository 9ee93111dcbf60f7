"""A dead letter as it is read: what is known of it, and the message that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.stored import message_of
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.messages import Message

_TOLD = [column for column in dead_letter_table.columns if column.name not in ("payload", "headers", "content_type")]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up. ``consumer`` is who could not handle it; None: it could not be published."""

    id: int
    consumer: str | None
    message_id: str
    topic: str
    type: str
    key: str | None
    occurred_at: datetime
    position: int | None
    attempts: int
    reason: str
    error: str
    died_at: datetime


def read_letters(
    connection: Connection, conditions: list[sa.ColumnElement[bool]], limit: int | None = None
) -> list[DeadLetter]:
    """Read dead letters without what they carry, in the order in which they died."""
    query = sa.select(*_TOLD).where(*conditions).order_by(dead_letter_table.c.id).limit(limit)
    return [DeadLetter(**row) for row in connection.execute(query).mappings()]


def read_letter(connection: Connection, letter_id: int, *, lock: bool = False) -> tuple[DeadLetter, Message] | None:
    """Read one dead letter with its message, locked until the transaction ends if asked; None when it is not there."""
    query = sa.select(dead_letter_table).where(dead_letter_table.c.id == letter_id)
    if lock:
        query = query.with_for_update()
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    return DeadLetter(**{column.name: row[column.name] for column in _TOLD}), message_of(row)


def remove_letter(connection: Connection, letter_id: int) -> None:
    """Take a dead letter out, because its message goes another way now."""
    connection.execute(sa.delete(dead_letter_table).where(dead_letter_table.c.id == letter_id))


def has_dead_letter(connection: Connection, topic: str, key: str | None) -> bool:
    """Whether a message of this key is a dead letter because it could not be published."""
    dead = dead_letter_table.c
    query = sa.select(dead.id).where(dead.consumer.is_(None), dead.topic == topic, dead.key == key)
    return connection.execute(query.limit(1)).first() is not None
