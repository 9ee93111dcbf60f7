"""How much waits: one cheap query, and the parts that tell the listeners, of the database and of the broker."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.queues import present
from txpatterns.clock import Clock
from txpatterns.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.database.queues import MOST, Queue
from txpatterns.database.schema import Instant
from txpatterns.errors import BrokerError
from txpatterns.hooks import HookList, Moment
from txpatterns.runtime.moments import Depths, DepthsSeen, QueuesSeen
from txpatterns.transport import Depth, Measures

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


class _Watch(ABC):
    """Tells the listeners what it sees, every 15 seconds for as long as it runs."""

    def __init__(self, clock: Clock, hooks: HookList, seen: Callable[[Any], Moment]) -> None:
        self._clock = clock
        self._hooks = hooks
        self._seen = seen
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Tell until ``stop`` is called."""
        while not self._stopping.is_set():
            self._hooks.tell(self._seen(await self._read()))
            await self._clock.wait(self._stopping, _EVERY)
        self._hooks.tell(self._seen(None))  # what is told once must not be shown for ever

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    @abstractmethod
    async def _read(self) -> object:
        """Look; None where nobody answers."""


class DepthsWatch(_Watch):
    """Tells the listeners how much waits in the database."""

    def __init__(self, database: Database, hooks: HookList) -> None:
        super().__init__(database.clock, hooks, DepthsSeen)
        self._database = database

    async def _read(self) -> Depths | None:
        try:
            return await depths_of(self._database)
        except Exception as error:
            if not may_pass(error):
                raise
            logger.info("how much waits could not be read: %s", type(error).__name__)
            return None


class QueuesWatch(_Watch):
    """Tells the listeners how much waits at the broker for one group."""

    def __init__(self, broker: Measures, topics: Sequence[str], group: str, clock: Clock, hooks: HookList) -> None:
        super().__init__(clock, hooks, QueuesSeen)
        self._broker, self._topics, self._group = broker, topics, group

    async def _read(self) -> tuple[Depth, ...] | None:
        try:
            return tuple(await self._broker.depths(self._topics, self._group))
        except BrokerError as error:
            logger.info("how much waits at the broker could not be read: %s", type(error).__name__)
            return None


def _count(queue: Queue) -> sa.ColumnElement[int]:
    some = queue.rows(sa.literal(1)).limit(MOST).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def _oldest(instants: sa.Select[tuple[datetime]]) -> sa.ScalarSelect[datetime]:
    some = instants.subquery()
    return sa.select(sa.func.min(some.c.began, type_=Instant)).scalar_subquery()
