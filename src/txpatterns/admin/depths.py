"""How much waits: one cheap query, and the part that tells its answer to the listeners."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.hooks import Depths, HookList
from txpatterns.inbox.schema import inbox_waiting_table
from txpatterns.outbox.schema import outbox_table, waiting_table

logger = logging.getLogger("txpatterns")

_EVERY = timedelta(seconds=15)
_MOST = 100_000


def read_depths(connection: Connection, now: sa.ColumnElement[datetime]) -> Depths:
    """Count what waits, each up to 100,000, and tell the age of the oldest by the database's clock."""
    oldest = sa.select(outbox_table.c.occurred_at).order_by(outbox_table.c.position).limit(1)
    query = sa.select(
        _count(outbox_table),
        _count(waiting_table),
        _count(inbox_waiting_table),
        _count(dead_letter_table),
        oldest.scalar_subquery(),
        sa.type_coerce(now, outbox_table.c.occurred_at.type),
    )
    depth, scheduled, waiting, dead, began, moment = connection.execute(query).one()
    age = timedelta(0) if began is None else max(moment - began, timedelta(0))
    return Depths(depth, age, scheduled, waiting, dead)


class DepthsWatch:
    """Tells the listeners how much waits, every 15 seconds for as long as it runs."""

    def __init__(self, database: Database, hooks: HookList) -> None:
        self._database = database
        self._hooks = hooks
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Tell until ``stop`` is called."""
        while not self._stopping.is_set():
            self._hooks.depths(await self._read())
            await self._database.clock.wait(self._stopping, _EVERY)
        self._hooks.depths(None)  # what is told once must not be shown for ever

    async def _read(self) -> Depths | None:
        try:
            return await self._database.read(partial(read_depths, now=self._database.now()))
        except Exception as error:
            if not may_pass(error):
                raise
            logger.info("how much waits could not be read: %s", type(error).__name__)
            return None

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()


def _count(table: sa.Table) -> sa.ColumnElement[int]:
    some = sa.select(sa.literal(1)).select_from(table).limit(_MOST).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()
