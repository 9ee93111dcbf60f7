"""What an operator asks of sagas: which there are, what has become of one of them, and what was done to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.admin import hands
from txpatterns.admin.audit import Deed
from txpatterns.admin.hands import living_owner, written_down
from txpatterns.admin.saga_relations import Relations, relations_of
from txpatterns.coordination.claims import alive
from txpatterns.database import Database
from txpatterns.database.schema import Instant
from txpatterns.errors import ConfigurationError, SagaKept
from txpatterns.sagas.claims import Claimed, claimed_of
from txpatterns.sagas.facts import Fact
from txpatterns.sagas.handover import Place
from txpatterns.sagas.schema import SAGA_TABLES, SCOPE, Status, saga_audit_table, saga_table
from txpatterns.sagas.store import Entry, SagaStore

_saga = saga_table.c


@dataclass(frozen=True, slots=True)
class SagaEntry:
    """Where one saga stands."""

    id: str
    type: str
    version: int
    run: int
    """Which run of its code this is; the journals of those before are kept with it."""
    status: str
    started_at: datetime
    deadline_at: datetime | None
    """When it is undone, if it is before its pivot then; None: never."""
    due_at: datetime | None
    """When it is claimed, unless it is run already; None: it has ended, or waits for a person."""
    is_run: bool
    """Whether a process that lives runs it now."""
    attention: str | None
    error: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class SagaDeed:
    """What an operator did to a saga."""

    done_at: datetime
    who: str
    action: str
    reason: str
    path: str | None
    status: str
    attention: str | None


@dataclass(frozen=True, slots=True)
class Stood:
    """A saga, and its whole journal, at one moment. Arguments, result and values in it may be personal data."""

    saga: Claimed
    entries: Sequence[Entry]
    now: datetime

    @property
    def facts(self) -> list[Fact]:
        """All that its journal has."""
        return [fact for entry in self.entries for fact in entry.facts]

    @property
    def place(self) -> Place:
        """Where its journal ends."""
        return Place(self.saga.number, self.saga.run, len(self.entries))

    @property
    def is_undone(self) -> bool:
        """Whether it has failed, and what it did is being undone."""
        return self.saga.status == Status.COMPENSATING


@dataclass(frozen=True, slots=True)
class FoundSaga:
    """One saga with all that is known of it."""

    entry: SagaEntry
    result: str | None
    stood: Stood
    deeds: Sequence[SagaDeed]
    relations: Relations


def list_sagas(
    connection: Connection,
    database: Database,
    *,
    type: str | None = None,
    status: str | None = None,
    flagged: bool = False,
    limit: int = 50,
) -> list[SagaEntry]:
    """List sagas, those that need a person first, and then the oldest first; at most ``limit``.

    Without a ``status`` those that have not ended.

    Raises:
        SchemaError: there are no tables of sagas.
    """
    need_tables(connection)
    wanted = [_saga.ended_at.is_(None) if status is None else _saga.status == status]
    if type is not None:
        wanted.append(_saga.type == type)
    found: list[SagaEntry] = []
    for needs_a_person in (True,) if flagged else (True, False):
        attention = _saga.attention.is_not(None) if needs_a_person else _saga.attention.is_(None)
        query = _entries(database).where(*wanted, attention).order_by(_saga.number).limit(limit - len(found))
        found += [_entry(row) for row in connection.execute(query).mappings()]
    return found


def find_saga(connection: Connection, database: Database, id: str, type: str | None = None) -> FoundSaga | None:
    """Find one saga with its journal; None: there is none.

    Raises:
        ConfigurationError: several types have one with this id.
        SagaDiverged: another version has written what this one cannot read.
        SchemaError: there are no tables of sagas.
    """
    need_tables(connection)
    number = _number(connection, id, type)
    if number is None:
        return None
    row = connection.execute(_entries(database).where(_saga.number == number)).mappings().one()
    stood, deeds = _stood(connection, database, row), _deeds(connection, number)
    return FoundSaga(_entry(row), row["result"], stood, deeds, relations_of(connection, number))


def read_whole(connection: Connection, database: Database, id: str, type: str | None) -> Stood:
    """Read a saga for an operator, who will do something to it.

    Raises:
        SagaKept: there is none, or it has ended.
        ConfigurationError, SagaDiverged, SchemaError: see ``find_saga``.
    """
    query = _entries(database).where(_saga.number == _needed(connection, id, type))
    row = connection.execute(query).mappings().one()
    _refuse_ended(row)
    return _stood(connection, database, row)


def take(
    connection: Connection, database: Database, id: str, type: str | None, *, though_completed: bool = False
) -> Stood:
    """Lock a saga, until the transaction ends, for an operator who does something to it.

    One that has ended is refused; ``though_completed`` takes one that has come to the end of its code.

    Raises:
        SagaKept: there is none, it has ended, or a process that lives runs it.
        ConfigurationError, SagaDiverged, SchemaError: see ``find_saga``.
    """
    query = _entries(database).where(_saga.number == _needed(connection, id, type))
    if not database.is_sqlite:
        query = query.with_for_update(key_share=True, of=saga_table)
    row = connection.execute(query).mappings().one()
    if not (though_completed and row["status"] == Status.COMPLETED):
        _refuse_ended(row)
    label = living_owner(connection, database, SCOPE, row["owner"])
    if label is not None:
        raise SagaKept(
            f"{id} is run at this moment, by the process {label}.",
            fix="Try again when it waits; if it never does, stop that process.",
        )
    return _stood(connection, database, row)


def write_down(
    connection: Connection, database: Database, stood: Stood, deed: Deed, action: str, path: str | None = None
) -> None:
    """Note what is done to a saga, in the transaction that does it, and where it stood before."""
    saga = stood.saga
    connection.execute(
        sa.insert(saga_audit_table).values(
            **written_down(database, deed, action),
            saga=saga.number,
            type=saga.type,
            saga_id=saga.id,
            path=path,
            status=saga.status,
            attention=saga.attention,
        )
    )


def need_tables(connection: Connection) -> None:
    """Make sure that the tables of sagas are there.

    Raises:
        SchemaError: the tables are those of the release before.
    """
    hands.need_tables(connection, {*SAGA_TABLES, saga_audit_table.name})


def _number(connection: Connection, id: str, type: str | None) -> int | None:
    query = sa.select(_saga.number, _saga.type).where(_saga.id == id).order_by(_saga.type)
    if type is not None:
        query = query.where(_saga.type == type)
    found = connection.execute(query).all()
    if len(found) > 1:
        types = [row.type for row in found]
        raise ConfigurationError(f"Several sagas have the id {id}: {', '.join(types)}.", fix=f"Add: --type {types[0]}")
    return found[0].number if found else None


def _refuse_ended(row: RowMapping) -> None:
    if row["ended_at"] is None:
        return
    fix = "Nothing of it is left to do: what it did is undone."
    if row["status"] == Status.COMPLETED:
        fix = "To undo what it did, though whoever waited for it has its result: txp saga compensate ID"
    raise SagaKept(f"{row['id']} has ended: it is {row['status']}.", fix=fix)


def _needed(connection: Connection, id: str, type: str | None) -> int:
    need_tables(connection)
    number = _number(connection, id, type)
    if number is None:
        which = f" of {type}" if type else ""
        raise SagaKept(f"There is no saga {id}{which}.", fix="See those there are: txp saga list")
    return number


def _stood(connection: Connection, database: Database, row: RowMapping) -> Stood:
    saga = claimed_of(row)
    return Stood(saga, SagaStore(database).journal(connection, saga), saga.claimed_at)


def _entries(database: Database) -> sa.Select[tuple[object, ...]]:
    is_run = sa.and_(_saga.owner.is_not(None), _saga.owner.in_(alive(database, SCOPE)))
    return sa.select(*saga_table.columns, is_run.label("is_run"), sa.type_coerce(database.now(), Instant).label("now"))


def _entry(row: RowMapping) -> SagaEntry:
    names = SagaEntry.__slots__
    return SagaEntry(**{**{name: row[name] for name in names}, "is_run": bool(row["is_run"])})


def _deeds(connection: Connection, number: int) -> list[SagaDeed]:
    audit = saga_audit_table.c
    query = sa.select(*(audit[name] for name in SagaDeed.__slots__)).where(audit.saga == number).order_by(audit.id)
    return [SagaDeed(**row) for row in connection.execute(query).mappings()]
