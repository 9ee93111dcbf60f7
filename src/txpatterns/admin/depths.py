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
from txpatterns.database.schema import Instant
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.hooks import HookList
from txpatterns.inbox.schema import inbox_waiting_table
from txpatterns.messages import EPOCH
from txpatterns.outbox.schema import Waiting, outbox_table, waiting_table
from txpatterns.runtime.moments import Depths, DepthsSeen

logger = logging.getLogger("txpatterns")

_EVERY = timedelta(seconds=15)
_MOST = 100_000
_NONE = timedelta(0)


def read_depths(connection: Connection, now: sa.ColumnElement[datetime]) -> Depths:
    """Count what waits, each up to 100,000, and tell the age of the oldest by the database's clock.

    What is scheduled is as old as it is late. A stranger's message that does not tell its age has none.
    """
    query = sa.select(
        _count(outbox_table),
        _count(waiting_table),
        _count(inbox_waiting_table),
        _count(dead_letter_table),
        sa.type_coerce(now, Instant),
        *map(_oldest, (_in_outbox(), _in_waiting(), _at_handlers())),
    )
    depth, scheduled, waiting, dead, moment, *began = connection.execute(query).one()
    ages = [moment - instant for instant in began if instant is not None]
    return Depths(depth, max([_NONE, *ages]), scheduled, waiting, dead)


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


def _count(table: sa.Table) -> sa.ColumnElement[int]:
    some = sa.select(sa.literal(1)).select_from(table).limit(_MOST).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def _oldest(instants: sa.Select[tuple[datetime]]) -> sa.ScalarSelect[datetime]:
    """Give the earliest of so many as are counted: a table of any size is asked in the same time."""
    some = instants.subquery()
    return sa.select(sa.func.min(some.c.began, type_=Instant)).scalar_subquery()


def _in_outbox() -> sa.Select[tuple[datetime]]:
    outbox = outbox_table.c
    return sa.select(outbox.occurred_at.label("began")).order_by(outbox.position).limit(1)


def _in_waiting() -> sa.Select[tuple[datetime]]:
    waiting = waiting_table.c
    began = sa.case((waiting.state == Waiting.SCHEDULED, waiting.due_at), else_=waiting.occurred_at)
    return sa.select(began.label("began")).limit(_MOST)


def _at_handlers() -> sa.Select[tuple[datetime]]:
    waiting = inbox_waiting_table.c
    return sa.select(waiting.occurred_at.label("began")).where(waiting.occurred_at > EPOCH).limit(_MOST)
