"""What an operator asks of ids: who makes them under which worker number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.engines import schema_of
from txpatterns.database.schema import Instant
from txpatterns.errors import SchemaError
from txpatterns.ids.layout import instant_of, millisecond_of
from txpatterns.ids.marks import is_ahead
from txpatterns.ids.schema import worker_table
from txpatterns.ids.worker_store import RESERVED

HELD, FREE, BLOCKS = "held", "free", "blocks"
"""What a worker number may be: somebody has it, nobody does, or blocks are drawn from it."""


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """One worker number. ``mark`` is the time of the last id that may have been made under it."""

    worker: int
    state: str
    label: str
    mark: datetime
    expires_at: datetime
    ahead: bool
    """Whether the database's clock was once so far ahead that this number is left for others while it can be."""


def list_workers(connection: Connection, *, database: Database) -> list[WorkerEntry]:
    """List the worker numbers that were ever used.

    Raises:
        SchemaError: the tables are older than ids.
    """
    if not sa.inspect(connection).has_table(worker_table.name, schema=schema_of(connection, worker_table)):
        raise SchemaError(f"{worker_table.name} is missing here.")
    now = sa.type_coerce(database.now(), Instant).label("now")
    return [_entry(row) for row in connection.execute(sa.select(worker_table, now).order_by(worker_table.c.worker))]


def _entry(row: sa.Row[tuple[object, ...]]) -> WorkerEntry:
    state = BLOCKS if row.worker == RESERVED else HELD if row.expires_at > row.now else FREE
    ahead = is_ahead(row.mark, millisecond_of(row.now))
    return WorkerEntry(row.worker, state, row.label, instant_of(row.mark), row.expires_at, ahead)
