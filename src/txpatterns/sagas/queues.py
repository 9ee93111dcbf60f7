"""Where sagas wait for something to be done."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.queues import MOST, Queue
from txpatterns.sagas.schema import saga_table

_saga = saga_table.c

ACTIVE = Queue(
    "sagas",
    "sagas",
    saga_table,
    order=_saga.number,
    # What sleeps is as old as it is late.
    since=sa.select(_saga.due_at.label("began")).where(_saga.due_at.is_not(None)).limit(MOST),
    due=_saga.due_at,
    held=sa.and_(_saga.attention.is_not(None), sa.or_(_saga.due_at.is_(None), _saga.diverged.is_not(None))),
    of=_saga.ended_at.is_(None),
)
QUEUES = (ACTIVE,)
