"""Everywhere that work waits, or that something waits for a person: a new pattern adds its queues here."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.engines import schema_of
from txpatterns.database.queues import Queue
from txpatterns.database.schema import DISPENSABLE
from txpatterns.deadletters import queues as deadletters
from txpatterns.inbox import queues as inbox
from txpatterns.outbox import queues as outbox
from txpatterns.sagas import queues as sagas
from txpatterns.tcc import queues as tcc

QUEUES: tuple[Queue, ...] = (*outbox.QUEUES, *inbox.QUEUES, *sagas.QUEUES, *tcc.QUEUES, *deadletters.QUEUES)
"""Each with its own figure in ``Depths``."""
WORK = tuple(queue for queue in QUEUES if queue.works)
"""Those of which nothing remains when everything is done."""


def present(connection: Connection, queues: Sequence[Queue] = QUEUES) -> list[Queue]:
    """Leave out the queues whose tables are not made yet: a release works before its migration has run."""
    return [queue for queue in queues if queue.table.name not in DISPENSABLE or _is_there(connection, queue.table)]


def _is_there(connection: Connection, table: sa.Table) -> bool:
    return sa.inspect(connection).has_table(table.name, schema=schema_of(connection, table))
