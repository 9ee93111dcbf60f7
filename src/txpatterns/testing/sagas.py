"""Sagas in the hands of a test: where one stands, and that its code does the same each time that it is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.saga_code import rebuild
from txpatterns.admin.sagas import FoundSaga, find_saga
from txpatterns.app import App
from txpatterns.database import Database
from txpatterns.database.schema import Instant
from txpatterns.errors import SagaDiverged
from txpatterns.sagas import Handle
from txpatterns.sagas.claims import claimed_of
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Ended, Undone
from txpatterns.sagas.following import differences
from txpatterns.sagas.queues import ACTIVE
from txpatterns.sagas.schema import Status, saga_journal_table, saga_table
from txpatterns.sagas.store import Entry, SagaStore
from txpatterns.testing.remains import Left, Look

_WORK = ("step", "call")
_saga = saga_table.c


@dataclass(frozen=True, slots=True)
class SagaSeen:
    """Where a saga stood when it was looked at."""

    id: str
    type: str
    status: str
    """``running``, ``waiting``, ``compensating``, ``completed`` or ``compensated``."""
    done: Sequence[str]
    """The names of the steps and calls that have had their effect, in their order."""
    undone: Sequence[str]
    """The names of those that are undone, in the order of their undoing."""
    waits_for: Sequence[str]
    """What its code waits for: ``call charge``, ``wait payment.captured:``, ``sleep``; nothing where it has ended."""
    result: Any
    """What its code has returned; None: it has not, or returned that."""
    error: str | None
    """Why it was undone."""
    attention: str | None
    """Why a person should look at it."""

    def is_at(self, name: str) -> bool:
        """Whether it waits for an operation of this name."""
        return any(name in (each, each.partition(" ")[2]) for each in self.waits_for)


async def see(app: App, saga_id: str, type_: str | None) -> SagaSeen | None:
    """See where a saga of an App stands; None: it has none with this id."""
    database = app.database
    found = await database.read(partial(find_saga, database=database, id=saga_id, type=type_))
    if found is None:
        return None
    entry, facts = found.entry, found.stood.facts
    definition = app.sagas.definitions.find(entry.type, entry.version)
    return SagaSeen(
        id=entry.id,
        type=entry.type,
        status=str(entry.status),
        done=[fact.mark.name for fact in facts if isinstance(fact, Ended) and fact.mark.kind in _WORK],
        undone=[fact.mark.name for fact in facts if isinstance(fact, Undone)],
        waits_for=[] if definition is None else await _waits_for(database, definition, found),
        result=None if definition is None or found.result is None else definition.result.read(found.result),
        error=entry.error,
        attention=entry.attention,
    )


async def _waits_for(database: Database, definition: Definition, found: FoundSaga) -> list[str]:
    stood = found.stood
    if found.entry.ended_at is not None or stood.is_undone:
        return []
    try:
        async with rebuild(definition, stood.saga, stood.entries, stood.now, database.clock) as rebuilt:
            return [str(each.operation.mark) for each in rebuilt.course.open.values()]
    except SagaDiverged:
        return []


class Replays:
    """Runs the code of each saga of an App again whenever its journal has grown, and compares."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[int, str]] = {}

    async def look(self, app: App) -> list[str]:
        """Say in words which sagas do not do the same again."""
        if not app.sagas.definitions:  # then there need be no tables of sagas
            return []
        database, told = app.database, list[str]()
        for row, entries in await database.read(partial(self._grown, app=app)):
            definition = app.sagas.definitions.find(row["type"], row["version"])
            difference = None if definition is None else await _differs(database, definition, row, entries)
            if difference is not None:
                told.append(
                    f"the code of {row['type']} {row['id']} does something else when it is run again: {difference}"
                )
        return told

    def _grown(self, connection: Connection, app: App) -> list[tuple[Any, Sequence[Entry]]]:
        """Read the sagas that have gone on since the last look, with their journals."""
        last = sa.select(sa.func.max(saga_journal_table.c.n)).where(saga_journal_table.c.saga == _saga.number)
        now = sa.type_coerce(app.database.now(), Instant).label("now")
        rows = connection.execute(sa.select(saga_table, now, last.scalar_subquery().label("last"))).mappings().all()
        return [
            (row, SagaStore(app.database).journal(connection, claimed_of(row)))
            for row in rows
            if row["diverged"] is None and self._is_new(app.name, row)
        ]

    def _is_new(self, app: str, row: Any) -> bool:
        state = (row["last"] or 0, row["status"])
        return self._seen.get((app, row["number"])) != state and not self._seen.update({(app, row["number"]): state})


async def _differs(database: Database, definition: Definition, row: Any, entries: Sequence[Entry]) -> str | None:
    """Run a saga's code from its journal, twice; say what is another thing than it was."""
    saga = claimed_of(row)
    run = partial(rebuild, definition, saga, entries, saga.claimed_at, database.clock)
    try:
        async with run() as first, run() as again:
            standing = None if first.planned is None else first.planned.standing
            if row["status"] == Status.COMPLETED and (standing is None or standing.result != row["result"]):
                return f"it returns {None if standing is None else standing.result}, and had returned {row['result']}"
            return differences(first.course.running, again.course.running)
    except SagaDiverged as error:
        return error.message


def open_sagas(looks: Sequence[Look]) -> Iterator[Left]:
    """Give the sagas among what was left when it was last looked."""
    return (left for look in looks for left in look.left if left.queue == ACTIVE.figure)


def named(saga: Handle[Any] | str) -> tuple[str, str | None]:
    """Give a saga's id, and its type where that is known."""
    return (saga, None) if isinstance(saga, str) else (saga.id, saga.type)
