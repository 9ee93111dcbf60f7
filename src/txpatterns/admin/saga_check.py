"""Whether code can go on with the sagas that run: each live journal is replayed against it, and nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.saga_code import rebuild
from txpatterns.admin.sagas import need_tables
from txpatterns.causes import summary_of
from txpatterns.database import Database
from txpatterns.database.schema import Instant
from txpatterns.errors import SagaDiverged
from txpatterns.sagas.claims import Claimed, claimed_of
from txpatterns.sagas.definitions import Definition, Definitions
from txpatterns.sagas.schema import saga_table
from txpatterns.sagas.store import Entry, SagaStore

_saga = saga_table.c

PAGE = 100
"""Sagas that are read at a time."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A saga that this code cannot go on with."""

    id: str
    type: str
    version: int
    is_served: bool
    """Whether there is code for it here."""
    why: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of replaying the journals."""

    replayed: int
    misfits: Sequence[Misfit]


@dataclass(frozen=True, slots=True)
class _Live:
    """A saga that has not ended, with its journal."""

    saga: Claimed
    diverged: str | None
    entries: Sequence[Entry] | SagaDiverged


async def check_sagas(database: Database, app: str, definitions: Definitions) -> Checked:
    """Replay each saga of an application that has not ended against its code; writes nothing.

    A saga does not fit where its code asks for something else than the journal has, where it stops at the journal's end
    and has not stopped there with this very code before, and where nobody here serves its type or version.

    Raises:
        SchemaError: there are no tables of sagas.
    """
    replayed, misfits = 0, list[Misfit]()
    async for live in _live(database, app, definitions):
        saga = live.saga
        definition = definitions.find(saga.type, saga.version)
        if definition is None:
            why: str | None = _unserved(definitions, saga)
        else:
            replayed += 1
            why = await _misfit(database, definition, live)
        if why is not None:
            misfits.append(Misfit(saga.id, saga.type, saga.version, definition is not None, why))
    return Checked(replayed, misfits)


async def _misfit(database: Database, definition: Definition, live: _Live) -> str | None:
    if isinstance(live.entries, SagaDiverged):
        return live.entries.message
    try:
        async with rebuild(definition, live.saga, live.entries, live.saga.claimed_at, database.clock) as rebuilt:
            return None if definition.fingerprint in (live.diverged or "") else rebuilt.stops
    except SagaDiverged as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever the code raises to its journal, it does not go on with it
        return f"The replay fails: {summary_of(error)}"


def _unserved(definitions: Definitions, saga: Claimed) -> str:
    served = [f"{since} to {version}" for type_, since, version, _ in definitions.known() if type_ == saga.type]
    return (
        f"Nobody here serves version {saga.version}, but {', '.join(served)}." if served else "Nobody here serves it."
    )


async def _live(database: Database, app: str, definitions: Definitions) -> AsyncIterator[_Live]:
    after = 0
    while True:
        page = await database.read(partial(_page, database=database, app=app, definitions=definitions, after=after))
        for live in page:
            yield live
        if len(page) < PAGE:
            return
        after = page[-1].saga.number


def _page(connection: Connection, database: Database, app: str, definitions: Definitions, after: int) -> list[_Live]:
    need_tables(connection)
    # Another application may be called as this one is with a dot behind it; its sagas are none of ours.
    name = sa.func.substr(_saga.type, len(app) + 2)
    own = sa.and_(_saga.type.startswith(f"{app}.", autoescape=True), sa.not_(name.contains(".")))
    known = _saga.type.in_({type_ for type_, *_ in definitions.known()})
    now = sa.type_coerce(database.now(), Instant).label("now")
    query = sa.select(saga_table, now).where(_saga.ended_at.is_(None), _saga.number > after, sa.or_(known, own))
    rows = connection.execute(query.order_by(_saga.number).limit(PAGE)).mappings().all()
    return [_with_journal(connection, database, claimed_of(row), row["diverged"]) for row in rows]


def _with_journal(connection: Connection, database: Database, saga: Claimed, diverged: str | None) -> _Live:
    try:
        return _Live(saga, diverged, SagaStore(database).journal(connection, saga))
    except SagaDiverged as error:
        return _Live(saga, diverged, error)
