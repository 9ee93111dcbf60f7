"""Where messages wait to be published."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.queues import MOST, Queue
from txpatterns.outbox.schema import Waiting, outbox_table, waiting_table

_outbox, _waiting = outbox_table.c, waiting_table.c

# What is scheduled is as old as it is late.
_began = sa.case((_waiting.state == Waiting.SCHEDULED, _waiting.due_at), else_=_waiting.occurred_at)

PENDING = Queue(
    "depth",
    "outbox",
    outbox_table,
    order=_outbox.position,
    since=sa.select(_outbox.occurred_at.label("began")).order_by(_outbox.position).limit(1),
)
WAITING = Queue(
    "scheduled",
    "outbox",
    waiting_table,
    order=_waiting.position,
    since=sa.select(_began.label("began")).limit(MOST),
    due=_waiting.due_at,
    held=_waiting.state == Waiting.PARKED,
)
QUEUES = (PENDING, WAITING)
