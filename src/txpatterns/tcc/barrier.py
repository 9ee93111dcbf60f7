"""The barrier: whether a participant does what a coordinator elsewhere asks for, whatever comes twice, late or never.

Requests travel on their own, so that a cancel may overtake its try, and each may come again. The first row of each
operation in a branch is written in the transaction that does the work; who comes later finds it, or waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.tcc.schema import Operation, tcc_barrier_table

_row = tcc_barrier_table.c
CHUNK = 500

SKEW = timedelta(minutes=1)
"""How far the clocks of a coordinator and of a participant may be apart."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a coordinator elsewhere asks a participant for."""

    xid: str
    """What tells the transaction from all others, of other applications too."""
    branch: str
    operation: Operation
    participant: str
    expires_at: datetime
    """When the transaction is cancelled, unless it is decided before."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a participant has reserved, and nobody has confirmed or cancelled."""

    xid: str
    branch: str
    participant: str

    @property
    def id(self) -> str:
        """What the participant knows it by."""
        return f"{self.xid}/{self.branch}"


class Verdict(Enum):
    """What becomes of a request."""

    RUN = "run"
    """It is the first, and the participant is to do it."""
    DONE = "done"
    """It is done already, or there is nothing to be done."""
    REFUSED = "refused"
    """It cannot be done any more: the other way was taken, or there is nothing that it could be about."""
    LATE = "late"
    """It is a try of a transaction whose time is over."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of a request, and what is answered where it is done already."""

    verdict: Verdict
    result: str | None = None
    why: str = ""


_RUN, _DONE = Admission(Verdict.RUN), Admission(Verdict.DONE)


class Barrier:
    """The statements about requests from elsewhere; ``keep`` is how long what is decided is remembered."""

    def __init__(self, database: Database, keep: timedelta) -> None:
        self.database = database
        self._keep = keep

    def admit(self, connection: Connection, request: Request) -> Admission:
        """Decide about a request, and note it, in the transaction that is to do what it asks for."""
        if request.operation == Operation.TRY:
            return self._try(connection, request)
        return self._decide(connection, request)

    def _try(self, connection: Connection, request: Request) -> Admission:
        if self._insert(connection, request, Operation.TRY, until=None, in_time=True):
            return _RUN
        found = self._found(connection, request)
        if found is None:
            return Admission(Verdict.LATE, why="The time of its transaction is over.")
        if found.made_by != Operation.TRY:
            return Admission(Verdict.REFUSED, why="It was cancelled before it came.")
        if found.participant != request.participant:
            return Admission(Verdict.REFUSED, why="Its branch is another participant's.")
        return Admission(Verdict.DONE, found.result)

    def _decide(self, connection: Connection, request: Request) -> Admission:
        is_cancel = request.operation == Operation.CANCEL
        # Written before it is looked for: a try that is under way is waited for, and one that comes later finds this.
        if is_cancel and self._insert(connection, request, Operation.TRY, until=request.expires_at + SKEW):
            return _DONE
        found = self._found(connection, request, locks=True)
        if found is None:
            return Admission(Verdict.REFUSED, why="It was never tried here, or that is forgotten.")
        if found.made_by == Operation.CANCEL:
            return _DONE if is_cancel else Admission(Verdict.REFUSED, why="It is cancelled.")
        if found.participant != request.participant:
            return Admission(Verdict.REFUSED, why="Its branch is another participant's.")
        other = Operation.CONFIRM if is_cancel else Operation.CANCEL
        if self._has(connection, request, other):
            return Admission(Verdict.REFUSED, why=f"It was asked to {other} before.")
        if not self._insert(connection, request, request.operation, until=self._kept_until):
            return _DONE
        tried = sa.update(tcc_barrier_table).where(*self._where(request, Operation.TRY))
        self.database.execute_beside(connection, tried.values(until=self._kept_until))
        return _RUN

    def refuse(self, connection: Connection, request: Request) -> Admission:
        """Note that a try was refused: the same that comes again, by another way, must not reserve behind that.

        Where the other was faster, and has reserved, that is what is to be answered.
        """
        self._insert(connection, request, Operation.TRY, until=request.expires_at + SKEW, made_by=Operation.CANCEL)
        return self._try(connection, request)

    def answered(self, connection: Connection, request: Request, result: str) -> None:
        """Keep what a try has returned, for who asks again."""
        update = sa.update(tcc_barrier_table).where(*self._where(request, Operation.TRY))
        self.database.execute_beside(connection, update.values(result=result))

    def is_noted(self, connection: Connection, request: Request) -> bool:
        """Whether a request is noted."""
        return self._has(connection, request, request.operation)

    def overdue(self, connection: Connection, app: str, again: timedelta) -> list[Reserved]:
        """Give some of what transactions of an application have reserved, and left beyond their time.

        Until ``again`` is over nobody is given the same.
        """
        is_open = sa.and_(_row.operation == Operation.TRY, _row.made_by == Operation.TRY, _row.until.is_(None))
        is_due = sa.or_(_row.ask_at.is_(None), _row.ask_at <= self.database.now())
        query = sa.select(_row.xid, _row.branch, _row.participant)
        query = query.where(is_open, is_due, _row.xid.startswith(f"{app}/", autoescape=True))
        query = query.order_by(_row.ask_at).limit(CHUNK)
        if not is_sqlite(connection):
            query = query.with_for_update(skip_locked=True)
        found = [Reserved(*row) for row in connection.execute(query)]
        if found:
            keys = sa.tuple_(_row.xid, _row.branch).in_([(each.xid, each.branch) for each in found])
            asked = sa.update(tcc_barrier_table).where(keys, _row.operation == Operation.TRY)
            connection.execute(asked.values(ask_at=self.database.now(again)))
        return found

    def clean(self, connection: Connection) -> int:
        """Forget some of what was decided long ago; says how many rows. What is reserved and not decided stays."""
        old = sa.select(_row.xid, _row.branch, _row.operation).where(_row.until < self.database.now()).limit(CHUNK)
        if not is_sqlite(connection):
            old = old.with_for_update(skip_locked=True)
        rows = connection.execute(old).all()
        for row in rows:
            key = (_row.xid == row.xid, _row.branch == row.branch, _row.operation == row.operation)
            connection.execute(sa.delete(tcc_barrier_table).where(*key))
        return len(rows)

    @property
    def _kept_until(self) -> sa.ColumnElement[datetime]:
        return self.database.now(self._keep)

    def _insert(
        self,
        connection: Connection,
        request: Request,
        operation: Operation,
        *,
        until: Any,
        in_time: bool = False,
        made_by: Operation | None = None,
    ) -> bool:
        """Note an operation; says whether nobody had noted it before. ``in_time``: only before its time is over."""
        insert = insert_into(tcc_barrier_table, on_sqlite=is_sqlite(connection))
        values = {
            "xid": request.xid,
            "branch": request.branch,
            "operation": operation,
            "made_by": made_by or request.operation,
            "participant": request.participant,
        }
        typed: list[sa.ColumnElement[Any]] = [
            sa.literal(value, _row[name].type).label(name) for name, value in values.items()
        ]
        ask_at = request.expires_at + SKEW if until is None else None
        times = (until, ask_at)
        typed += [sa.type_coerce(sa.null() if each is None else each, _row.until.type) for each in times]
        given = sa.select(*typed)
        # Always with a condition: SQLite would else take ON CONFLICT for that of a join.
        limit = sa.literal(request.expires_at + SKEW, _row.until.type)
        given = given.where(limit > self.database.now() if in_time else sa.true())
        statement = insert.from_select([*values, "until", "ask_at"], given).on_conflict_do_nothing().returning(_row.xid)
        return self.database.execute_beside(connection, statement).first() is not None

    def _found(self, connection: Connection, request: Request, *, locks: bool = False) -> Any:
        """Read the row of the try, and with ``locks`` let no other decide about the branch before the commit."""
        query = sa.select(tcc_barrier_table).where(*self._where(request, Operation.TRY))
        if locks and not is_sqlite(connection):
            query = query.with_for_update()
        return self.database.execute_beside(connection, query).first()

    def _has(self, connection: Connection, request: Request, operation: Operation) -> bool:
        query = sa.select(_row.xid).where(*self._where(request, operation))
        return self.database.execute_beside(connection, query).first() is not None

    def _where(self, request: Request, operation: Operation) -> tuple[sa.ColumnElement[bool], ...]:
        return (_row.xid == request.xid, _row.branch == request.branch, _row.operation == operation)
