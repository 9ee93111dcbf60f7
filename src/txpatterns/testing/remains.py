"""What is in the tables of a test: what waits, until when, and what was given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.queues import WORK, present
from txpatterns.database.queues import Queue
from txpatterns.deadletters.schema import dead_letter_table

_HELD = "is_held"


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

    def __str__(self) -> str:
        return (
            f"{self.consumer or 'nobody could publish it'}: {self.type} {self.message_id}, key {self.key}, "
            f"{self.attempts} attempts, {self.reason}: {_first_line(self.error)}"
        )


@dataclass(frozen=True, slots=True)
class Left:
    """A message, a saga or a TCC transaction that waits."""

    where: str
    """The table or the consumer, and why it waits there."""
    at_once: bool
    """Whether it is to be done now."""
    consumer: str | None
    type: str
    message_id: str
    key: str | None
    attempts: int
    due_at: datetime | None
    """None: at once, or when another message of its key is done, or a person has decided."""
    error: str | None
    """Of the last attempt: what sums it up, with the line that raised it; then the traceback."""
    queue: str
    """What it waits in, as ``Depths`` names it."""

    def __str__(self) -> str:
        named = f"{self.where}: {self.type} {self.message_id}, key {self.key}"
        tried = f", {self.attempts} attempts" if self.attempts else ""
        due = f", due {self.due_at:%Y-%m-%d %H:%M:%S}" if self.due_at else ""
        return f"{named}{tried}{due}" + (f": {_first_line(self.error)}" if self.error else "")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a database has found: what waits, and what was given up."""

    left: Sequence[Left]
    dead: Sequence[DeadLetter]

    @property
    def at_once(self) -> bool:
        """Whether anything is to be done now."""
        return any(left.at_once for left in self.left)

    @property
    def next_due(self) -> datetime | None:
        """When the first of the rest is due; None when nothing waits for a time."""
        return min((left.due_at for left in self.left if left.due_at is not None), default=None)


def look(connection: Connection) -> Look:
    """See what is left to do."""
    return Look(what_is_left(connection), dead_letters(connection))


def is_something_at_once(connection: Connection) -> bool:
    """See whether anything is to be done now, whatever waits for later."""
    return any(queue.at_once and not queue.is_empty(connection) for queue in present(connection, WORK))


def dead_letters(connection: Connection) -> list[DeadLetter]:
    """Read all dead letters, the oldest first."""
    table = dead_letter_table.c
    columns = (table.message_id, table.consumer, table.type, table.key, table.attempts, table.reason, table.error)
    return [DeadLetter(*row) for row in connection.execute(sa.select(*columns).order_by(table.id))]


def what_is_left(connection: Connection, *, but_held: bool = False) -> list[Left]:
    """Give all that is not finished, each queue in its order; ``but_held``: but for what a person decides about."""
    return [
        _left(queue, row)
        for queue in present(connection, WORK)
        for row in connection.execute(_rows(queue, but_held=but_held)).mappings()
    ]


def _rows(queue: Queue, *, but_held: bool) -> sa.Select[Any]:
    rows = queue.rows().order_by(queue.order)
    if queue.held is None:
        return rows
    return rows.where(sa.not_(queue.held)) if but_held else rows.add_columns(queue.held.label(_HELD))


def _left(queue: Queue, row: sa.RowMapping) -> Left:
    consumer = row.get("consumer")
    state = row.get("state") or row.get("status")
    return Left(
        where=f"{consumer or queue.place}, {state}" if state else f"{consumer or queue.place}",
        at_once=queue.at_once,
        consumer=consumer,
        type=row["type"] if "type" in row else row["app"],
        message_id=row["message_id"] if "message_id" in row else row["id"],
        key=row.get("key"),
        attempts=row.get("attempts", 0),
        due_at=None if row.get(_HELD) else row.get("due_at"),
        error=row.get("error") or row.get("attention"),
        queue=queue.figure,
    )


def _first_line(error: str) -> str:
    return error.partition("\n")[0]
