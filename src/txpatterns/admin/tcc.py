"""What an operator asks of TCC transactions, and does to one that does not come to its end by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.admin.audit import Deed
from txpatterns.admin.hands import living_owner, need_tables, written_down
from txpatterns.coordination import say
from txpatterns.coordination.claims import alive
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, TccKept
from txpatterns.tcc.schema import (
    SCOPE,
    TCC,
    TCC_TABLES,
    Operation,
    State,
    Status,
    tcc_audit_table,
    tcc_branch_table,
    tcc_table,
)
from txpatterns.tcc.store import TccStore

_tcc, _branch = tcc_table.c, tcc_branch_table.c
_STATES = {Operation.CONFIRM: State.CONFIRMED, Operation.CANCEL: State.CANCELLED}


class Action(StrEnum):
    """What can be done to a transaction."""

    RETRY = "retry"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True)
class TccEntry:
    """Where one transaction stands."""

    id: str
    app: str
    status: str
    started_at: datetime
    expires_at: datetime
    """When it is cancelled, unless it is decided before."""
    due_at: datetime | None
    """When it is gone on with, unless it is already; None: it has ended."""
    is_run: bool
    """Whether a process that lives brings it to its end now."""
    attention: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class BranchEntry:
    """Where one participant's part stands. Arguments and result may be personal data."""

    branch: str
    participant: str
    state: str
    attempts: int
    error: str | None
    args: str
    result: str | None


@dataclass(frozen=True, slots=True)
class TccDeed:
    """What an operator did to a transaction."""

    done_at: datetime
    who: str
    action: str
    reason: str
    branch: str | None
    status: str
    attention: str | None


@dataclass(frozen=True, slots=True)
class FoundTcc:
    """One transaction with all that is known of it."""

    entry: TccEntry
    branches: Sequence[BranchEntry]
    deeds: Sequence[TccDeed]


def list_tcc(
    connection: Connection, database: Database, *, status: str | None = None, flagged: bool = False, limit: int = 50
) -> list[TccEntry]:
    """List transactions, those that need a person first, and then the oldest first; at most ``limit``.

    Without a ``status`` those that have not ended.

    Raises:
        SchemaError: there are no tables of TCC.
    """
    need_tables(connection, _TABLES)
    wanted = [_tcc.ended_at.is_(None) if status is None else _tcc.status == status]
    if flagged:
        wanted.append(_tcc.attention.is_not(None))
    first = sa.case((_tcc.attention.is_not(None), 0), else_=1)
    query = _entries(database).where(*wanted).order_by(first, _tcc.number).limit(limit)
    return [_entry(row) for row in connection.execute(query).mappings()]


def find_tcc(connection: Connection, database: Database, id: str, app: str | None = None) -> FoundTcc | None:
    """Find one transaction with its branches; None: there is none.

    Raises:
        ConfigurationError: several applications have one with this id.
        SchemaError: there are no tables of TCC.
    """
    row = _row(connection, database, id, app)
    if row is None:
        return None
    columns = [_branch[name] for name in BranchEntry.__slots__]
    query = sa.select(*columns).where(_branch.xid == f"{row['app']}/{row['id']}")
    branches = [BranchEntry(**each) for each in connection.execute(query).mappings()]
    audit = tcc_audit_table.c
    deeds = sa.select(*(audit[name] for name in TccDeed.__slots__)).where(audit.tcc == row["number"])
    done = [TccDeed(**each) for each in connection.execute(deeds.order_by(audit.id)).mappings()]
    return FoundTcc(_entry(row), sorted(branches, key=lambda each: (len(each.branch), each.branch)), done)


@dataclass(frozen=True, slots=True)
class TccInHand:
    """One transaction in the hands of an operator, who has a reason.

    Each method raises TccKept, and changes nothing, where there is no such transaction, where it has ended, and where a
    process that lives goes on with it; ConfigurationError where several applications have its id; SchemaError without
    its tables.
    """

    database: Database
    id: str
    app: str | None
    deed: Deed

    async def retry(self) -> None:
        """Let it be gone on with now. One that still tries is cancelled by that: whoever began it is gone."""

        def work(connection: Connection, row: RowMapping) -> None:
            self._go_on(connection, row)
            self._write_down(connection, row, Action.RETRY)

        await self._do(work)

    async def resolve(self, branch: str) -> None:
        """Say that a branch is confirmed, or cancelled, as the transaction is decided: you have done it by hand.

        Raises:
            TccKept: it is not decided, or nothing of the branch is left to be done.
        """

        def work(connection: Connection, row: RowMapping) -> None:
            status = Status(row["status"])
            if status == Status.TRYING:
                raise TccKept(f"{self.id} is not decided.", fix="To cancel what was tried: txp tcc retry ID")
            xid = f"{row['app']}/{row['id']}"
            found = TccStore(self.database).branch(connection, xid, branch)
            asked = None if found is None else found.asked(status)
            if asked is None:
                raise TccKept(f"{self.id} has no branch {branch} of which something is left.")
            update = sa.update(tcc_branch_table).where(_branch.xid == xid, _branch.branch == branch)
            connection.execute(update.values(state=_STATES[asked], error=None))
            self._go_on(connection, row)
            self._write_down(connection, row, Action.RESOLVE, branch)

        await self._do(work)

    async def _do(self, work: Callable[[Connection, RowMapping], None]) -> None:
        await self.database.transact(lambda connection: work(connection, self._taken(connection)))

    def _taken(self, connection: Connection) -> RowMapping:
        """Lock it, until the transaction ends."""
        row = _row(connection, self.database, self.id, self.app, locks=True)
        if row is None:
            raise TccKept(f"There is no transaction {self.id}.", fix="See those there are: txp tcc list")
        if row["ended_at"] is not None:
            raise TccKept(
                f"{self.id} has ended: it is {row['status']}.",
                fix="That is final: begin another one that mends it.",
            )
        label = living_owner(connection, self.database, SCOPE, row["owner"])
        if label is not None:
            raise TccKept(f"{self.id} is gone on with at this moment, by the process {label}.", fix="Try again soon.")
        return row

    def _go_on(self, connection: Connection, row: RowMapping) -> None:
        """Let whoever claims it next go on, and nobody else."""
        tries = row["status"] == Status.TRYING
        update = sa.update(tcc_table).where(_tcc.number == row["number"])
        values = {"owner": None, "due_at": self.database.now(), "attention": None, "crashes": 0}
        status = Status.CANCELLING if tries else row["status"]
        connection.execute(update.values(**values, status=status, epoch=_tcc.epoch + 1))
        say(connection, TCC)

    def _write_down(self, connection: Connection, row: RowMapping, action: Action, branch: str | None = None) -> None:
        about = {"tcc": row["number"], "app": row["app"], "tcc_id": row["id"], "branch": branch}
        stood = {"status": row["status"], "attention": row["attention"]}
        deed = written_down(self.database, self.deed, action)
        connection.execute(sa.insert(tcc_audit_table).values(**deed, **about, **stood))


_TABLES = {*TCC_TABLES, tcc_audit_table.name}


def _row(
    connection: Connection, database: Database, id: str, app: str | None, *, locks: bool = False
) -> RowMapping | None:
    need_tables(connection, _TABLES)
    query = _entries(database).where(_tcc.id == id).order_by(_tcc.app)
    if app is not None:
        query = query.where(_tcc.app == app)
    if locks and not database.is_sqlite:
        query = query.with_for_update(key_share=True, of=tcc_table)
    found = connection.execute(query).mappings().all()
    if len(found) > 1:
        apps = [row["app"] for row in found]
        raise ConfigurationError(
            f"Several applications have a transaction {id}: {', '.join(apps)}.", fix=f"Add: --of {apps[0]}"
        )
    return found[0] if found else None


def _entries(database: Database) -> sa.Select[tuple[object, ...]]:
    is_run = sa.and_(_tcc.owner.is_not(None), _tcc.owner.in_(alive(database, SCOPE)))
    return sa.select(*tcc_table.columns, is_run.label("is_run"))


def _entry(row: RowMapping) -> TccEntry:
    names = TccEntry.__slots__
    return TccEntry(**{**{name: row[name] for name in names}, "is_run": bool(row["is_run"])})
