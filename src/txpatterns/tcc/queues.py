"""Where TCC transactions wait for something to be done."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.queues import MOST, Queue
from txpatterns.tcc.schema import tcc_table

_tcc = tcc_table.c

ACTIVE = Queue(
    "tcc",
    "tcc",
    tcc_table,
    order=_tcc.number,
    # One that tries is as old as it is late.
    since=sa.select(_tcc.due_at.label("began")).where(_tcc.due_at.is_not(None)).limit(MOST),
    due=_tcc.due_at,
    of=_tcc.ended_at.is_(None),
)
QUEUES = (ACTIVE,)
