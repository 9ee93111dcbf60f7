"""The one insert that decides whether an effect may happen, and the removal of what is old enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from txpatterns.database import Database
from txpatterns.database.dialects import idle_limit, insert_into, listed
from txpatterns.database.rendering import Rendered
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.inbox.entries import Entry
from txpatterns.inbox.schema import inbox_table, inbox_waiting_table

_COLUMNS = [column.name for column in inbox_table.columns]
_GRACE = timedelta(seconds=10)
"""How much longer than its handler a transaction may do nothing: who can be cut off is cut off by us first."""


class Claims:
    """Who comes first: rows in the inbox, one for each consumer and message id.

    The insert waits for another transaction that holds the same row, and decides only when that has ended.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._seconds = database.seconds()
        self._rendered: dict[tuple[str, Dialect, str | None], Rendered] = {}

    def claim(
        self,
        connection: Connection,
        consumer: str,
        message_id: str,
        fingerprint: str | None,
        limit: timedelta | None = None,
    ) -> bool:
        """Say whether this is the first time, in the caller's transaction.

        ``limit`` is how long the code that follows may take. Where that is over and the transaction does nothing,
        PostgreSQL ends it, so that a process that hangs or is stopped keeps nobody else waiting.
        """
        values = {"consumer": consumer, "message_id": message_id, "fingerprint": fingerprint}
        return self._insert("claim", connection, values, limit)

    def take(self, connection: Connection, entry: Entry, limit: timedelta | None) -> bool:
        """Claim a message that came from the broker, unless it or its key waits in the database, or it is dead.

        One statement, so that nothing comes between the look and the claim. ``limit`` is as for ``claim``.
        """
        values = {
            "consumer": entry.consumer,
            "message_id": entry.message.id,
            "fingerprint": entry.fingerprint,
            "lane": entry.lane,
        }
        return self._insert("take", connection, values, limit)

    def take_all(self, connection: Connection, entries: Sequence[Entry], limit: timedelta | None) -> set[str]:
        """Do what ``take`` does for several messages of one consumer, in one statement; gives the ids it has claimed.

        They are inserted in the order of their ids: two processes with some of the same messages then wait for each
        other in one direction, and never both.
        """
        rows = sorted((entry.message.id, entry.fingerprint, entry.lane) for entry in entries)
        values = {"consumer": entries[0].consumer, "rows": json.dumps(rows), **self._idle(limit)}
        return set(self._statement("take all", connection).column(connection, values))

    def has(self, connection: Connection, entry: Entry) -> bool:
        """Say whether a message is claimed, in the caller's transaction too."""
        return self.fingerprint(connection, entry.consumer, entry.message.id) is not None

    def fingerprint(self, connection: Connection, consumer: str, message_id: str) -> str | None:
        """Give the fingerprint that a handled message had: empty where none was given, None where there is no row."""
        query = sa.select(sa.func.coalesce(inbox_table.c.fingerprint, "")).where(
            inbox_table.c.consumer == consumer, inbox_table.c.message_id == message_id
        )
        return self.database.execute_beside(connection, query).scalar_one_or_none()

    def clean(self, connection: Connection, retention: timedelta, most: int) -> int:
        """Forget the oldest handled messages beyond the retention; gives how many.

        One whose id still waits or is a dead letter stays, however old it is: it may come again at any time.
        """
        inbox, waiting, dead = inbox_table.c, inbox_waiting_table.c, dead_letter_table.c
        old = (
            sa.select(inbox.consumer, inbox.message_id)
            .where(
                inbox.processed_at < self.database.now(-retention),
                ~sa.exists().where(waiting.consumer == inbox.consumer, waiting.message_id == inbox.message_id),
                ~sa.exists().where(dead.message_id == inbox.message_id),
            )
            .order_by(inbox.processed_at)
            .limit(most)
        )
        rows = sa.tuple_(inbox.consumer, inbox.message_id)
        return connection.execute(sa.delete(inbox_table).where(rows.in_(old))).rowcount

    def _insert(self, name: str, connection: Connection, values: Mapping[str, Any], limit: timedelta | None) -> bool:
        return self._statement(name, connection).execute(connection, {**values, **self._idle(limit)}) == 1

    def _idle(self, limit: timedelta | None) -> dict[str, str]:
        return {} if self.database.is_sqlite else {"idle": _milliseconds(limit)}

    def _statement(self, name: str, connection: Connection) -> Rendered:
        """Give one of the inserts: rendered once, and again when the test kit has moved the clock."""
        seconds = self.database.seconds()
        if self._seconds != seconds:
            self._seconds, self._rendered = seconds, {}
        kind = (name, connection.dialect, self.database.home.schema_beside(connection))
        found = self._rendered.get(kind)
        if found is None:
            found = self._rendered[kind] = Rendered(self._build(name), *kind[1:])
        return found

    def _build(self, name: str) -> sa.Insert:
        if name == "take all":
            return self._take_all()
        consumer, message_id = _text("consumer"), _text("message_id")
        row: list[sa.ColumnElement[Any]] = [consumer, message_id, _text("fingerprint"), self.database.now()]
        insert = insert_into(inbox_table, on_sqlite=self.database.is_sqlite)
        if name == "claim":
            return self._bound(insert.values(dict(zip(_COLUMNS, row, strict=True))).on_conflict_do_nothing())
        free = _free(consumer, message_id, _text("lane"))
        return self._bound(insert.from_select(_COLUMNS, sa.select(*row).where(*free)).on_conflict_do_nothing())

    def _take_all(self) -> sa.Insert:
        consumer = _text("consumer")
        number, (message_id, fingerprint, lane) = listed(_text("rows"), 3, on_sqlite=self.database.is_sqlite)
        row: list[sa.ColumnElement[Any]] = [consumer, message_id, fingerprint, self.database.now()]
        taken = sa.select(*row).where(*_free(consumer, message_id, lane)).order_by(number)
        insert = insert_into(inbox_table, on_sqlite=self.database.is_sqlite).from_select(_COLUMNS, taken)
        return self._bound(insert.on_conflict_do_nothing().returning(inbox_table.c.message_id))

    def _bound(self, insert: sa.Insert) -> sa.Insert:
        return insert if self.database.is_sqlite else insert.returning(idle_limit(_text("idle")))


def _free(
    consumer: sa.ColumnElement[str], message_id: sa.ColumnElement[str], lane: sa.ColumnElement[str]
) -> list[sa.ColumnElement[bool]]:
    """Say that neither a message nor its key waits in the database, and that it is no dead letter."""
    waiting, dead = inbox_waiting_table.c, dead_letter_table.c
    return [
        ~_is_held_up(consumer, lane),
        ~sa.exists().where(waiting.consumer == consumer, waiting.message_id == message_id),
        ~sa.exists().where(dead.message_id == message_id, dead.consumer == consumer),
    ]


def _is_held_up(consumer: sa.ColumnElement[str], lane: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Say that something of a lane waits: look at the first row from its place on, in the order of the index.

    Asked for the lane alone, a server that knows most rows as one lane's expects every row to be of the lane, whichever
    it is: it reads the table from the beginning, and all of it for a lane of which nothing waits.
    """
    waiting = inbox_waiting_table.alias("from_here").c
    first = (
        sa.select(sa.and_(waiting.lane == lane, waiting.consumer == consumer))
        .where(sa.tuple_(waiting.lane, waiting.consumer) >= sa.tuple_(lane, consumer))
        .order_by(waiting.lane, waiting.consumer, waiting.id)
        .limit(1)
        .scalar_subquery()
    )
    return sa.func.coalesce(first, sa.false(), type_=sa.Boolean)


def _text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.String)


def _milliseconds(limit: timedelta | None) -> str:
    return "0" if limit is None else str((limit + _GRACE) // timedelta(milliseconds=1))
