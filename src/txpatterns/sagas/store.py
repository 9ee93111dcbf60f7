"""Reading and writing sagas. Whoever writes names the epoch at which it claimed the saga: a later claim ends that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import ReturningUpdate

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.database.rendering import Frequent
from txpatterns.errors import IdReused
from txpatterns.messages import Event
from txpatterns.sagas.arrivals import has_come
from txpatterns.sagas.claims import Claimed, Start, claimed_of, lost
from txpatterns.sagas.facts import Fact, read, written
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.looking import Known, SagaLooks, served
from txpatterns.sagas.neighbours import NOTHING, Beside, Neighbours
from txpatterns.sagas.runs import Restart, begin_run
from txpatterns.sagas.schema import Status, saga_journal_table, saga_table
from txpatterns.sagas.signal_store import SignalStore, WaitRow
from txpatterns.sagas.statements import START, WRITE, WRITE_UNLOCKED, parameters
from txpatterns.text import storable

_saga, _journal = saga_table.c, saga_journal_table.c

NOW = timedelta(0)
_IS_MINE = sa.select(_saga.number).where(_saga.number == sa.bindparam("number"), _saga.epoch == sa.bindparam("epoch"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a journal."""

    n: int
    facts: Sequence[Fact]
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a write leaves its saga; without one it stays where it is."""

    status: Status
    due: timedelta | None = NOW
    """After which time it is due; None: never."""
    is_owned: bool = True
    """Whether its owner goes on with it."""
    attention: str | None = None
    is_news: bool = True
    """Whether a person was not told of that before."""
    result: str | None = None
    error: str | None = None
    diverged: str | None = None
    """The fingerprints of all code that could not go on from here; empty: it has got further; None: as before."""
    restart: Restart | None = None
    """How its code begins anew."""
    crashes: int = 0
    """With how many owners that have died it is left: to be told of again by whoever claims it next."""

    @property
    def goes_on(self) -> bool:
        """Whether its code goes on in the same run."""
        return self.status in (Status.RUNNING, Status.WAITING) and self.restart is None

    @property
    def is_end(self) -> bool:
        """Whether nothing follows."""
        return self.status in (Status.COMPLETED, Status.COMPENSATED)


@dataclass(frozen=True, slots=True)
class Write:
    """One row for a saga's journal, and where that leaves it."""

    facts: Sequence[Fact] = ()
    standing: Standing | None = None
    emits: Sequence[tuple[str, Event]] = ()
    """The events that go with it, each with its path."""
    waits: Sequence[WaitRow] = ()
    """What is waited for from now on."""
    unwaits: Sequence[str] = ()
    """The paths of what is waited for no longer."""
    took: tuple[str, str, int] | None = None
    """The channel, the key and the number of a signal that the code was given."""
    rests: bool = False
    """Whether nothing is done any more until an event comes: it must not have come meanwhile."""
    waits_no_more: bool = False
    """Whether it waits for nothing any more of what it has waited for until then."""
    instead: int | None = None
    """The row of the journal whose place it takes; None: it is a row more."""
    starts: Sequence[Start] = ()
    """The children that begin with it."""
    beside: Beside = NOTHING
    """What becomes of other sagas by it."""

    @property
    def is_new_row(self) -> bool:
        """Whether it makes the journal longer."""
        return bool(self.facts) and self.instead is None

    @property
    def concerns_waits(self) -> bool:
        """Whether what the saga waits for changes."""
        return bool(self.waits or self.unwaits or self.took or self.waits_no_more)

    @property
    def is_plain(self) -> bool:
        """Whether it is about the saga's row and a new one of its journal alone."""
        begins_anew = self.standing is not None and self.standing.restart is not None
        others = self.concerns_waits or self.rests or self.starts or self.beside
        return not (others or self.instead is not None or begins_anew)

    @property
    def is_one_statement(self) -> bool:
        """Whether it can be a transaction by itself, where a statement can do several things."""
        return self.is_plain and not self.emits


class SagaStore(SagaLooks):
    """The statements about sagas."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._begin, self._plain, self._mine = (Frequent(database, each) for each in (START[False], WRITE, _IS_MINE))
        self.unlocked = Frequent(database, WRITE_UNLOCKED)
        """Writes for many sagas what is plain, but for those whose rows somebody has locked; gives their numbers."""
        self.signals = SignalStore(database)
        self.locks = LockStore(database)
        self._neighbours = Neighbours(database)

    def start(self, connection: Connection, start: Start, owner: str | None = None) -> bool:
        """Begin a saga in the connection's transaction; says whether there was none with this id.

        Where there is an ``owner`` it has the saga from the commit on, as if it had claimed it.

        Raises:
            IdReused: there is one, with other arguments, or that is no child of the same run of the same parent.
        """
        given: dict[str, Any] = {
            "type": start.type,
            "id": start.id,
            "version": start.version,
            "status": Status.RUNNING,
            "args": start.args,
            "digest": start.digest,
            "headers": json.dumps(dict(start.headers)),
            "run": 1,
            "owner": owner,
            "epoch": 0 if owner is None else 1,
            "parent": start.parent,
            "parent_path": start.parent_path,
            "now": self.database.seconds(),
        }
        given["until"] = None if start.deadline is None else self.database.seconds(start.deadline)
        if is_sqlite(connection):
            row = self.database.execute_beside(connection, START[True], given).first()
        else:
            row = self._begin.run(connection, given).first()
        if row is not None:
            if owner is not None:
                start.claimed = claimed_of(given | _as_started(start, row.number, row.started_at))
            return True
        query = sa.select(_saga.digest, _saga.parent, _saga.parent_path).where(
            _saga.type == start.type, _saga.id == start.id
        )
        found = self.database.execute_beside(connection, query).first()
        if found is not None and found.digest == start.digest and start.is_begun_by(found.parent, found.parent_path):
            return False
        other = "with other arguments" if start.parent is None else "with other arguments, or of another parent or run"
        raise IdReused(
            f"There is a saga {start.id} of {start.type} already, {other}.",
            fix="Give each saga an id of its own; the same id with the same arguments is the same saga.",
        )

    def claim(
        self,
        connection: Connection,
        owner: str,
        alive: sa.Select[tuple[str]],
        known: Known,
        most: int,
    ) -> list[Claimed]:
        """Take sagas that are due and that nobody who lives owns, the longest due first."""
        died = sa.case((_saga.owner.is_not(None), 1), else_=0)
        changes = {"crashes": _saga.crashes + died}
        taken = self.claims.claim(connection, (owner, alive), most, served(known), changes=changes)
        return [claimed_of(row) for row in taken]

    def journal(self, connection: Connection, saga: Claimed) -> list[Entry]:
        """Read the journal of a saga."""
        mine = (_journal.saga == saga.number, _journal.run == saga.run)
        query = sa.select(_journal.n, _journal.facts, _journal.at).where(*mine).order_by(_journal.n)
        return [Entry(row.n, read(row.facts), row.at) for row in connection.execute(query)]

    def write(self, connection: Connection, saga: Claimed, n: int, write: Write) -> None:
        """Add a row to a saga's journal, and set where it stands, in the connection's transaction.

        Raises:
            LeaseLost: somebody else has claimed it since.
        """
        if write.is_plain and not saga.crashes and not is_sqlite(connection):
            given = parameters([row_of(saga, n, write)], self.database.seconds())
            if self._plain.run(connection, given).first() is None:
                raise lost(saga)
            return
        if write.beside:
            self._neighbours.change(connection, saga.number, write.beside)
        arrived = self._wait(connection, saga.number, write) if write.concerns_waits else False
        if write.standing is not None and (write.rests or arrived):
            is_mine = self._rest(connection, saga, write.standing)
            guard = None
        else:
            is_mine, guard = True, self._guard(connection, saga, write.standing)
        if guard is not None and not (write.facts and not is_sqlite(connection)):
            is_mine, guard = self.database.execute_beside(connection, guard).first() is not None, None
        if not is_mine or (write.facts and not self._note(connection, saga, n, write, guard)):
            raise lost(saga)
        if write.standing is not None and write.standing.restart is not None:
            begin_run(connection, self.database, saga.number, write.standing.restart)
        for start in write.starts:
            self.start(connection, start)

    def _guard(
        self, connection: Connection, saga: Claimed, standing: Standing | None
    ) -> sa.Select[tuple[int]] | ReturningUpdate[tuple[int]]:
        """Give the statement that finds the saga's row if it is still ours, and sets where it stands."""
        mine = (_saga.number == saga.number, _saga.epoch == saga.epoch)
        if standing is None and not saga.crashes:
            query = sa.select(_saga.number).where(*mine)
            return query if is_sqlite(connection) else query.with_for_update(key_share=True)
        changes = {"crashes": 0} if standing is None else self._values(standing)
        return sa.update(saga_table).where(*mine).values(**changes).returning(_saga.number)

    def _note(
        self,
        connection: Connection,
        saga: Claimed,
        n: int,
        write: Write,
        guard: sa.Select[tuple[int]] | ReturningUpdate[tuple[int]] | None,
    ) -> bool:
        """Write the row, in one statement with its guard where there is one; says whether that has found the saga."""
        now, facts = self.database.now(), written(write.facts)
        number: Any = sa.literal(saga.number) if guard is None else guard.cte("mine").c.number
        statement: sa.Insert | sa.Update
        if write.instead is not None:
            place = (_journal.saga == number, _journal.run == saga.run, _journal.n == write.instead)
            statement = sa.update(saga_journal_table).where(*place).values(facts=facts, at=now)
        elif guard is None:
            row = {"saga": saga.number, "run": saga.run, "n": n, "facts": facts, "at": now}
            self.database.execute_beside(connection, sa.insert(saga_journal_table).inline().values(**row))
            return True
        else:
            given = {"run": saga.run, "n": n, "facts": facts}
            values = [sa.literal(value, _journal[name].type).label(name) for name, value in given.items()]
            select = sa.select(number, *values, now.label("at"))
            statement = sa.insert(saga_journal_table).from_select(["saga", *given, "at"], select)
        return self.database.execute_beside(connection, statement.returning(_journal.saga)).first() is not None

    def _wait(self, connection: Connection, number: int, write: Write) -> bool:
        """Keep what the saga waits for; says whether some of it is there already."""
        signals = self.signals
        if write.unwaits or write.waits_no_more:
            signals.forget(connection, number, None if write.waits_no_more else write.unwaits)
        if write.took is not None:
            signals.took(connection, number, *write.took)
        found = [signals.wait(connection, number, row) for row in sorted(write.waits)]
        return any(found)

    def _rest(self, connection: Connection, saga: Claimed, standing: Standing) -> bool:
        """Let a saga wait, but for what has come by now: whoever brings more waits for the row's lock, and wakes it."""
        mine = (_saga.number == saga.number, _saga.epoch == saga.epoch)
        lock = sa.select(_saga.number).where(*mine)
        if not is_sqlite(connection):
            lock = lock.with_for_update(key_share=True)
        if self.database.execute_beside(connection, lock).first() is None:
            return False
        values = self._values(standing)
        values["due_at"] = sa.case((has_come(), self.database.now()), else_=values["due_at"])
        update = sa.update(saga_table).where(*mine).values(**values)
        return self.database.execute_beside(connection, update).rowcount == 1

    def is_mine(self, connection: Connection, saga: Claimed) -> bool:
        """Whether nobody has claimed a saga since."""
        return self._mine.run(connection, {"number": saga.number, "epoch": saga.epoch}).first() is not None

    def _values(self, standing: Standing) -> dict[str, Any]:
        values: dict[str, Any] = {
            "status": standing.status,
            "due_at": None if standing.due is None else self.database.now(standing.due),
            "attention": standing.attention and storable(standing.attention),
            "crashes": standing.crashes,
        }
        if not standing.is_owned:
            values["owner"] = None
        if standing.diverged is not None:
            values["diverged"] = standing.diverged or None
        if standing.error is not None:
            values["error"] = standing.error
        if standing.is_end:
            values |= {"result": standing.result, "ended_at": self.database.now()}
        if standing.restart is not None:
            again = standing.restart
            deadline = None if again.deadline is None else self.database.now(again.deadline)
            values |= {"run": again.run, "args": again.args, "deadline_at": deadline}
        return values


def _as_started(start: Start, number: int, now: datetime) -> dict[str, Any]:
    """Give the columns of a saga's row, right after its start, that are not given with it."""
    deadline = None if start.deadline is None else now + start.deadline
    when = {"started_at": now, "deadline_at": deadline, "now": now}
    return {"number": number, "crashes": 0, "attention": None, "diverged": None, **when}


def row_of(saga: Claimed, n: int, write: Write) -> Mapping[str, Any]:
    """Give a plain write as a row for ``statements``."""
    standing = write.standing
    return {
        "number": saga.number,
        "epoch": saga.epoch,
        "run": saga.run,
        "n": n,
        "facts": written(write.facts) if write.facts else None,
        "status": standing and standing.status.value,
        "due": None if standing is None or standing.due is None else standing.due.total_seconds(),
        "is_owned": standing and standing.is_owned,
        "is_end": standing and standing.is_end,
        "attention": standing and standing.attention and storable(standing.attention),
        "diverged": standing and standing.diverged,
        "error": standing and standing.error,
        "result": standing and standing.result,
    }
