"""The runs of a saga's code: each has a journal of its own, and the next one begins with an empty one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.sagas.facts import Fact, Had, written
from txpatterns.sagas.schema import saga_journal_table, saga_signal_table

UNDONE_FIRST = (
    "A saga begins anew behind its pivot, or where nothing is to be undone: its compensations would be forgotten."
)


@dataclass(frozen=True, slots=True)
class Restart:
    """How a saga begins anew."""

    run: int
    """The number of the new run."""
    args: str
    """As JSON."""
    deadline: timedelta | None
    """How long after that it is undone if it is before its pivot then."""
    had: Mapping[tuple[str, str], int]
    """The last signal that the saga has had, by channel and key."""


def begin_run(connection: Connection, database: Database, saga: int, restart: Restart) -> None:
    """Write what a new run has to know of those before: the events that they have had, of those that are still kept."""
    if not restart.had:
        return
    signal = saga_signal_table.c.id
    found = database.execute_beside(connection, sa.select(signal).where(signal.in_(sorted(restart.had.values()))))
    kept = set(found.scalars())
    facts: list[Fact] = [Had(*which, number) for which, number in restart.had.items() if number in kept]
    if facts:
        row = {"saga": saga, "run": restart.run, "n": 1, "facts": written(facts), "at": database.now()}
        database.execute_beside(connection, sa.insert(saga_journal_table).inline().values(**row))
