"""How much waits: one cheap query, and the part that tells its answer to the listeners."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.queues import present
from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.database.queues import MOST, Queue
from txpatterns.database.schema import Instant
from txpatterns.hooks import HookList
from txpatterns.runtime.moments import Depths, DepthsSeen

logger = logging.getLogger("txpatterns")

_EVERY = timedelta(seconds=15)
_NONE = timedelta(0)


def read_depths(connection: Connection, now: sa.ColumnElement[datetime]) -> Depths:
    """Count what waits in each queue, up to 100,000, and tell the age of the oldest by the database's clock."""
    queues = present(connection)
    counts = [_count(queue) for queue in queues]
    oldest = [_oldest(queue.since) for queue in queues if queue.since is not None]
    moment, *found = connection.execute(sa.select(sa.type_coerce(now, Instant), *counts, *oldest)).one()
    ages = [moment - instant for instant in found[len(counts) :] if instant is not None]
    figures: dict[str, Any] = {queue.figure: number for queue, number in zip(queues, found, strict=False)}
    return Depths(**figures, oldest_age=max([_NONE, *ages]))


async def depths_of(database: Database) -> Depths:
    """Do the same, by a query of its own."""
    return await database.read(partial(read_depths, now=database.now()))


class DepthsWatch:
    """Tells the listeners how much waits, every 15 seconds for as long as it runs."""

    def __init__(self, database: Database, hooks: HookList) -> None:
        self._database = database
        self._hooks = hooks
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Tell until ``stop`` is called."""
        while not self._stopping.is_set():
            self._hooks.tell(DepthsSeen(await self._read()))
            await self._database.clock.wait(self._stopping, _EVERY)
        self._hooks.tell(DepthsSeen(None))  # what is told once must not be shown for ever

    async def _read(self) -> Depths | None:
        try:
            return await depths_of(self._database)
        except Exception as error:
            if not may_pass(error):
                raise
            logger.info("how much waits could not be read: %s", type(error).__name__)
            return None

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()


def _count(queue: Queue) -> sa.ColumnElement[int]:
    some = queue.rows(sa.literal(1)).limit(MOST).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def _oldest(instants: sa.Select[tuple[datetime]]) -> sa.ScalarSelect[datetime]:
    some = instants.subquery()
    return sa.select(sa.func.min(some.c.began, type_=Instant)).scalar_subquery()
