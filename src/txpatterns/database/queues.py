"""What a queue is: a table in which work waits. Each pattern names its own; figures, drains and tests go by these."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.dialects import last_number

MOST = 100_000
"""Rows of a queue that are counted, or asked for their age: so a table of any size is asked in the same time."""

_SHOWN = 1000
"""Rows of a queue whose due times are compared again and again."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A table in which work waits, and what of it is to be done."""

    figure: str
    """Its name in ``Depths``."""
    place: str
    """Where a person finds it."""
    table: sa.Table
    order: sa.Column[Any]
    """What its rows are listed by."""
    since: sa.Select[tuple[datetime]] | None
    """Since when rows wait, as a column ``began``, at most ``MOST`` of them; None: nothing here waits to be done."""
    due: sa.Column[Any] | None = None
    """When a row is to be done; None: at once."""
    held: sa.ColumnElement[bool] | None = None
    """The rows that are not done before a person has decided; None: there are none."""
    of: sa.ColumnElement[bool] | None = None
    """The rows that are in the queue; None: all of the table."""

    @property
    def works(self) -> bool:
        """Whether its rows are work that will be done."""
        return self.since is not None

    @property
    def at_once(self) -> bool:
        """Whether its rows are to be done now, whatever the time."""
        return self.works and self.due is None

    @property
    def signs(self) -> list[sa.ColumnElement[Any]]:
        """Give what changes, on SQLite, when there is a new row to be done, or one is to be done sooner.

        Where more rows than a thousand wait for a time, a change among the others does not show.
        """
        if self.due is None:
            return [last_number(self.table)]
        some = sa.select(self.due.label("due")).where(self.due.is_not(None)).limit(_SHOWN).subquery()
        figures = sa.func.count(), sa.func.min(some.c.due)
        return [sa.select(figure).select_from(some).scalar_subquery() for figure in figures]

    def due_rows(self, latest: sa.ColumnElement[datetime], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Select what is due at a moment of the database's clock, the earliest first, and lock it.

        What somebody else has locked is left out: an attempt of it is under way, or it is being taken back.
        """
        assert self.due is not None, f"nothing in {self.table.name} is ever due"
        rows = sa.select(self.table).where(self.due <= latest, *conditions)
        return rows.order_by(self.due).with_for_update(skip_locked=True)

    def rows(self, *columns: Any) -> sa.Select[Any]:
        """Select what is in the queue: these columns, or all."""
        rows = sa.select(*(columns or self.table.columns)).select_from(self.table)
        return rows if self.of is None else rows.where(self.of)

    def is_empty(self, connection: Connection) -> bool:
        """Whether nothing at all is in it."""
        return connection.execute(self.rows(self.order).limit(1)).first() is None
