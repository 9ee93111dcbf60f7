"""What is kept of a first answer, and whose turn it is to give one: one row for each principal and key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.dialects import idle_limit, insert_into
from txpatterns.database.schema import Instant
from txpatterns.errors import AnswerNotKept, KeyInUse, KeyReused, TurnLost

BATCH = 500
SOON = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is kept: its status, the headers that were chosen, its bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to answer the requests with one key: one request has it at a time, until its lease is over."""

    principal: str
    """Whose key it is, as a digest."""
    key: str
    fingerprint: str
    id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a key: an answer, or somebody who has its turn."""

    fingerprint: str
    answer: Answer | None
    age: timedelta
    """Since it was begun, or answered."""
    lease_left: timedelta
    is_old: bool

    def is_free_for(self, fingerprint: str) -> bool:
        """Whether a request may take the turn: what is kept is too old, or who had it has not answered in time."""
        return self.is_old or (
            self.answer is None and self.lease_left <= timedelta(0) and self.fingerprint == fingerprint
        )

    def first_answer(self, fingerprint: str) -> Answer:
        """Give the first answer.

        Raises:
            KeyReused: it is the answer to another request.
            KeyInUse: it is not there yet. It may be after as long as it has taken up to now, or when the lease is over.
        """
        if self.fingerprint != fingerprint:
            raise KeyReused
        if self.answer is None:
            raise KeyInUse(retry_after=min(max(self.age, SOON), self.lease_left))
        return self.answer


def make_table(metadata: sa.MetaData, name: str, instant: sa.types.TypeEngine[Any]) -> sa.Table:
    """Define the table of answers in some metadata."""
    return sa.Table(
        name,
        metadata,
        sa.Column("principal", sa.String(64), primary_key=True, comment="digest of whose key it is"),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, comment="digest of the request"),
        sa.Column("turn", sa.String(36), nullable=False, comment="the request that answers, or has answered"),
        sa.Column("leased_until", instant, nullable=False, comment="when another may answer, if this one has not"),
        sa.Column("status", sa.SmallInteger, comment="NULL: not answered yet"),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("at", instant, nullable=False, comment="when it was begun, or answered"),
        sa.Index(f"ix_{name}_at", "at"),
        comment="the first answer to each Idempotency-Key",
    )


class AnswerStore:
    """The statements on the table of answers; each method runs in the transaction of the connection it is given.

    ``lease`` is how long a turn lasts, ``keep`` how long a row is looked at.
    """

    def __init__(self, database: Database, table: sa.Table, lease: timedelta, keep: timedelta) -> None:
        self.database = database
        self.lease = lease
        self.keep = keep
        # Of our own, with our own type of instants; the one in the user's metadata has SQLAlchemy's.
        self._table = make_table(sa.MetaData(schema=table.schema), table.name, Instant())

    def find(self, connection: Connection, principal: str, key: str) -> Found | None:
        """Say what there is of a key; None: nothing."""
        columns, now = self._table.c, sa.type_coerce(self.database.now(), Instant).label("now")
        row = connection.execute(sa.select(self._table, now).where(columns.principal == principal, columns.key == key))
        found = row.one_or_none()
        if found is None:
            return None
        answer = None if found.status is None else Answer(found.status, _headers(found.headers), found.body)
        age: timedelta = found.now - found.at
        return Found(found.fingerprint, answer, age, found.leased_until - found.now, age > self.keep)

    def seize(self, connection: Connection, turn: Turn) -> bool:
        """Take the turn, if nobody has it: a new row, or one whose owner's lease is over, or that is too old."""
        database, columns = self.database, self._table.c
        fresh = {"turn": turn.id, "leased_until": database.now(self.lease), "at": database.now()}
        mine = {"principal": turn.principal, "key": turn.key, "fingerprint": turn.fingerprint}
        insert = insert_into(self._table, on_sqlite=database.is_sqlite).values(**mine, **fresh)
        insert = insert.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        if connection.execute(insert).rowcount == 1:
            return True
        dead = sa.and_(
            columns.status.is_(None),
            columns.leased_until <= database.now(),
            columns.fingerprint == turn.fingerprint,
        )
        free = sa.select(columns.key).where(
            columns.principal == turn.principal,
            columns.key == turn.key,
            sa.or_(dead, columns.at < database.now(-self.keep)),
        )
        # One who is just writing its answer holds the row: it is not waited for.
        free = free.with_for_update(skip_locked=True)
        emptied = {"status": None, "headers": None, "body": None}
        take = sa.update(self._table).where(columns.principal == turn.principal, columns.key.in_(free))
        return connection.execute(take.values(fingerprint=turn.fingerprint, **fresh, **emptied)).rowcount == 1

    def keep_answer(self, connection: Connection, turn: Turn, answer: Answer) -> None:
        """Write the answer down, in the transaction of its effect.

        Where a process stands still between this and its COMMIT, PostgreSQL ends the transaction after the lease.

        Raises:
            TurnLost: another request has the turn, or has answered.
        """
        columns = self._table.c
        kept = {"status": answer.status, "headers": json.dumps(answer.headers), "body": answer.body}
        update = sa.update(self._table).where(self._has(turn)).values(**kept, at=self.database.now())
        if self.database.is_sqlite:
            done = connection.execute(update).rowcount
        else:
            limit = sa.bindparam("idle", str(self.lease // timedelta(milliseconds=1)), sa.String)
            done = len(connection.execute(update.returning(columns.key, idle_limit(limit))).all())
        if done != 1:
            raise TurnLost

    def give_up(self, connection: Connection, turn: Turn) -> None:
        """Leave the key to whoever comes next; an answer that is there stays."""
        connection.execute(sa.delete(self._table).where(self._has(turn)))

    def clean(self, connection: Connection) -> int:
        """Delete a batch of what is too old; gives how many."""
        columns = self._table.c
        old = sa.select(columns.principal, columns.key).where(columns.at < self.database.now(-self.keep))
        old = old.order_by(columns.at).limit(BATCH).with_for_update(skip_locked=True)
        return connection.execute(
            sa.delete(self._table).where(sa.tuple_(columns.principal, columns.key).in_(old))
        ).rowcount

    def _has(self, turn: Turn) -> sa.ColumnElement[bool]:
        columns = self._table.c
        return sa.and_(
            columns.principal == turn.principal,
            columns.key == turn.key,
            columns.turn == turn.id,
            columns.status.is_(None),
        )


def refuse_large(size: int, most: int) -> None:
    """Raise AnswerNotKept for a body of more bytes than are kept."""
    if size > most:
        raise AnswerNotKept(f"The answer has {size} bytes; {most} are kept.")


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in json.loads(text))
