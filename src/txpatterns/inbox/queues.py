"""Where messages wait to be handled."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.queues import MOST, Queue
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.messages import EPOCH

_waiting = inbox_waiting_table.c
_first = inbox_waiting_table.alias("first")

WAITING = Queue(
    "waiting",
    "inbox",
    inbox_waiting_table,
    order=_waiting.id,
    # A stranger's message that does not tell its age has none.
    since=sa.select(_waiting.occurred_at.label("began")).where(_waiting.occurred_at > EPOCH).limit(MOST),
    due=_waiting.due_at,
    held=sa.exists().where(
        _first.c.consumer == _waiting.consumer, _first.c.lane == _waiting.lane, _first.c.state == State.PARKED
    ),
)
QUEUES = (WAITING,)
