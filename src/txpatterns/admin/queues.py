"""Everywhere that work waits, or that something waits for a person: a new pattern adds its queues here."""

from __future__ import annotations

from txpatterns.database.queues import Queue
from txpatterns.deadletters import queues as deadletters
from txpatterns.inbox import queues as inbox
from txpatterns.outbox import queues as outbox

QUEUES: tuple[Queue, ...] = (*outbox.QUEUES, *inbox.QUEUES, *deadletters.QUEUES)
"""Each with its own figure in ``Depths``."""
WORK = tuple(queue for queue in QUEUES if queue.works)
"""Those of which nothing remains when everything is done."""
