"""Reading and writing transactions and their branches. Whoever writes names the epoch at which it holds one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.coordination.claims import Claims
from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.tcc import statements
from txpatterns.tcc.claims import Beginning, Branch, Held, held_of, lost
from txpatterns.tcc.schema import State, Status, tcc_branch_table, tcc_table
from txpatterns.tcc.transactions import Instance
from txpatterns.text import storable

_tcc, _branch = tcc_table.c, tcc_branch_table.c
_CHUNK = 500
_ENDS = (Status.CONFIRMED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Move:
    """Where a write leaves a transaction."""

    to: Status
    owner: str | None = None
    """Who goes on with it; None: whoever claims it."""
    due: timedelta = timedelta(0)
    """After which time it may be claimed, if its owner does not live."""
    attention: str | None = None
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """A branch that has come to a state."""

    branch: str
    state: State


@dataclass(frozen=True, slots=True)
class Failed:
    """A branch whose attempt has failed."""

    branch: str
    attempts: int
    error: str


class TccStore:
    """The statements about transactions."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.claims = Claims(database, tcc_table)

    def begin(self, connection: Connection, beginning: Beginning, branch: Branch) -> Held | None:
        """Begin a transaction with its first branch; None: there is one with this id."""
        given: dict[str, Any] = {
            "app": beginning.app,
            "id": beginning.id,
            "owner": beginning.token,
            "headers": json.dumps(dict(beginning.headers)),
            "now": self.database.seconds(),
            "until": self.database.seconds(beginning.timeout),
        }
        of_branch = _parameters(beginning.xid, branch)
        if is_sqlite(connection):
            row = self.database.execute_beside(connection, statements.BEGIN_ON_SQLITE, given).first()
            if row is not None:
                self.database.execute_beside(connection, statements.BRANCH, of_branch)
        else:
            row = self.database.execute_beside(connection, statements.BEGIN, {**given, **of_branch}).first()
        if row is None:
            return None
        instance = Instance(beginning.app, beginning.id, row.started_at, row.expires_at, beginning.headers)
        return Held(row.number, instance, Status.TRYING, beginning.token)

    def join(self, connection: Connection, held: Held, branch: Branch) -> bool:
        """Add a branch to a transaction; says whether it is not decided, and has time left."""
        given = {"number": held.number, "owner": held.owner, "now": self.database.seconds()}
        of_branch = _parameters(held.instance.xid, branch)
        if not is_sqlite(connection):
            return self.database.execute_beside(connection, statements.JOIN, {**given, **of_branch}).first() is not None
        if self.database.execute_beside(connection, statements.STILL_TRIES, given).first() is None:
            return False
        self.database.execute_beside(connection, statements.BRANCH, of_branch)
        return True

    def still_tries(self, connection: Connection, held: Held) -> bool:
        """Whether a transaction is not decided, and has time left; until the commit nobody decides then."""
        given = {"number": held.number, "owner": held.owner, "now": self.database.seconds()}
        statement = statements.STILL_TRIES if is_sqlite(connection) else statements.STILL_TRIES_LOCKED
        return self.database.execute_beside(connection, statement, given).first() is not None

    def answered(self, connection: Connection, xid: str, branch: str, state: State, result: str | None) -> None:
        """Keep what a try has come to."""
        given = {"its_xid": xid, "its_branch": branch, "now_state": state, "what": result}
        self.database.execute_beside(connection, statements.RESULT, given)

    def branch(self, connection: Connection, xid: str, branch: str) -> Branch | None:
        """Read one branch; None: there is none."""
        query = _branches(xid).where(_branch.branch == branch)
        return next(map(_branch_of, self.database.execute_beside(connection, query).mappings()), None)

    def branches(self, connection: Connection, xid: str) -> list[Branch]:
        """Read the branches of a transaction, in the order in which they were tried."""
        found = list(map(_branch_of, self.database.execute_beside(connection, _branches(xid)).mappings()))
        return sorted(found, key=lambda each: (len(each.branch), each.branch))

    def find(self, connection: Connection, app: str, id: str) -> Held | None:
        """Read where a transaction stands; None: there is none with this id."""
        query = sa.select(tcc_table).where(_tcc.app == app, _tcc.id == id)
        row = self.database.execute_beside(connection, query).mappings().first()
        return None if row is None else held_of(row)

    def move(self, connection: Connection, held: Held, move: Move, marked: Marked | None = None) -> bool:
        """Move a transaction on, and with it a branch; says whether that was not moved on before.

        Raises:
            LeaseLost: somebody else has claimed it, or decided it, since.
        """
        ends = move.to in _ENDS
        given: dict[str, Any] = {
            "its_number": held.number,
            "its_epoch": held.epoch,
            "was": held.status,
            "becomes": move.to,
            "held_by": None if ends else move.owner,
            "until": None if ends else self.database.seconds(move.due),
            "ends": self.database.seconds() if ends else None,
            "flag": move.attention and storable(move.attention),
            "deaths": move.crashes,
        }
        if marked is not None and not is_sqlite(connection):
            both = self.database.execute_beside(
                connection, statements.MOVE_AND_MARK, {**given, **_mark(held, marked)}
            ).first()
            if both is None:
                raise lost(held)
            return both.branch is not None
        if self.database.execute_beside(connection, statements.MOVE, given).first() is None:
            raise lost(held)
        return marked is None or self.mark(connection, held, marked)

    def mark(self, connection: Connection, held: Held, marked: Marked) -> bool:
        """Move a branch on, in a transaction that has moved its own already; says whether that was not done before."""
        return self.database.execute_beside(connection, statements.MARK, _mark(held, marked)).first() is not None

    def failed(self, connection: Connection, held: Held, failures: Sequence[Failed]) -> None:
        """Note what has failed."""
        for each in failures:
            mine = (_branch.xid == held.instance.xid, _branch.branch == each.branch)
            update = sa.update(tcc_branch_table).where(*mine)
            connection.execute(update.values(attempts=each.attempts, error=storable(each.error)))

    def flag(self, connection: Connection, number: int, attention: str) -> None:
        """Tell a person of a transaction, wherever it stands."""
        connection.execute(sa.update(tcc_table).where(_tcc.number == number).values(attention=storable(attention)))

    def claim(
        self, connection: Connection, app: str, leases: tuple[str, sa.Select[tuple[str]]], most: int
    ) -> list[Held]:
        """Take transactions that are due and that nobody who lives owns: one that still tries is cancelled by that."""
        tries = _tcc.status == Status.TRYING
        died = sa.case((sa.or_(tries, _tcc.owner.is_(None)), 0), else_=1)
        status = sa.case((tries, Status.CANCELLING.value), else_=_tcc.status)
        changes = {"status": status, "crashes": _tcc.crashes + died}
        return [held_of(row) for row in self.claims.claim(connection, leases, most, _tcc.app == app, changes=changes)]

    def next_due(
        self, connection: Connection, app: str, alive: sa.Select[tuple[str]], within: timedelta
    ) -> timedelta | None:
        """Say how long until a transaction is due that nobody who lives owns; None: not within that time."""
        free = sa.or_(_tcc.owner.is_(None), _tcc.owner.not_in(alive))
        return self.claims.next_due(connection, within, free, _tcc.app == app)

    def has_due(self, connection: Connection, app: str, moment: datetime) -> bool:
        """Whether a transaction is due, and was at a moment of the database's clock, whoever owns it."""
        return self.claims.has_due(connection, moment, _tcc.app == app)

    def clean(self, connection: Connection, older_than: timedelta) -> int:
        """Forget some transactions that have ended longer ago than that, with their branches; says how many."""
        old = sa.select(_tcc.number, _tcc.app, _tcc.id).where(_tcc.ended_at < self.database.now(-older_than))
        old = old.limit(_CHUNK)
        if not is_sqlite(connection):
            old = old.with_for_update(skip_locked=True)
        rows = connection.execute(old).all()
        if rows:
            xids = [f"{row.app}/{row.id}" for row in rows]
            connection.execute(sa.delete(tcc_branch_table).where(_branch.xid.in_(xids)))
            connection.execute(sa.delete(tcc_table).where(_tcc.number.in_([row.number for row in rows])))
        return len(rows)


def _branches(xid: str) -> sa.Select[Any]:
    columns = (_branch.branch, _branch.participant, _branch.args, _branch.state, _branch.result, _branch.attempts)
    return sa.select(*columns).where(_branch.xid == xid)


def _branch_of(row: RowMapping) -> Branch:
    return Branch(**{**row, "state": State(row["state"])})


def _parameters(xid: str, branch: Branch) -> dict[str, Any]:
    return statements.parameters_of_branch(
        xid=xid, branch=branch.branch, participant=branch.participant, args=branch.args, state=branch.state
    )


def _mark(held: Held, marked: Marked) -> dict[str, Any]:
    return {"its_xid": held.instance.xid, "its_branch": marked.branch, "now_state": marked.state}
