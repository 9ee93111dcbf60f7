"""Where messages are that were given up."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.database.queues import Queue
from txpatterns.deadletters.schema import dead_letter_table

QUEUES = (Queue("dead", "dead letters", dead_letter_table, order=dead_letter_table.c.id, since=None, held=sa.true()),)
