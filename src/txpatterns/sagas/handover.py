"""Writing for a saga from outside, whoever runs it: what its operator does, or its parent.

Each raises the epoch, so that whoever ran the saga before writes nothing any more, and lets the next claim go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.sagas.decisions import line_of
from txpatterns.sagas.facts import Fact, Failure, Finished, written
from txpatterns.sagas.schema import Status, saga_journal_table, saga_table
from txpatterns.sagas.signal_store import SignalStore

_saga = saga_table.c


class Place(NamedTuple):
    """A saga whose row is locked, and where its journal ends."""

    saga: int
    run: int
    rows: int


def hand_over(
    connection: Connection,
    database: Database,
    place: Place,
    facts: Sequence[Fact],
    status: Status,
    *,
    error: str | None = None,
) -> None:
    """Add to a saga's journal, and let whoever claims it next go on from there, and nobody else."""
    now = database.now()
    if facts:
        row = {"saga": place.saga, "run": place.run, "n": place.rows + 1, "facts": written(facts), "at": now}
        database.execute_beside(connection, sa.insert(saga_journal_table).inline().values(**row))
    values: dict[str, Any] = {"owner": None, "due_at": now, "attention": None, "crashes": 0, "diverged": None}
    values |= {"status": status, "epoch": _saga.epoch + 1, "ended_at": None, "result": None}
    if error is not None:
        values["error"] = error
    database.execute_beside(connection, sa.update(saga_table).where(_saga.number == place.saga).values(**values))


def cancel(connection: Connection, database: Database, place: Place, failure: Failure, by: str) -> None:
    """Let a saga be undone, wherever its code is."""
    SignalStore(database).forget(connection, place.saga, None)
    end = Finished(failure=failure, by=by)
    hand_over(connection, database, place, [end], Status.COMPENSATING, error=line_of(failure))
