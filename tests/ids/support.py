"""What the tests of ids share: a clock and machines that are tended by hand, and a look at the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from txpatterns import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers
from txpatterns.ids.schema import worker_table

START = datetime(2030, 1, 1, tzinfo=UTC)


class HandClock:
    """Stands until it is set. The database's clock stands with it, or apart by ``ahead``."""

    offset = timedelta(0)

    def __init__(self) -> None:
        self.at = START
        self.ahead = timedelta(0)
        """Of the database's clock."""

    @property
    def instant(self) -> datetime | None:
        return self.at - self.ahead

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        await event.wait()
        return True

    def go(self, **by: float) -> None:
        """Move it, and with it the database's."""
        self.at += timedelta(**by)


async def prepared(url: str, clock: HandClock | None = None) -> Database:
    """A database with our tables."""
    database = Database(url, clock=clock)
    await database.transact(create_missing)
    return database


class Machine:
    """One process that makes ids, whose worker number is tended when the test says so."""

    def __init__(self, database: Database) -> None:
        self.numbers = WorkerNumbers(database)
        self.ids = SnowflakeGenerator(self.numbers)
        self.numbers.upkeep.begin = bool  # no thread

    async def tend(self) -> None:
        await self.numbers.upkeep.open()

    def made(self, most: int) -> Iterator[int]:
        """Make ids until there are none."""
        for _ in range(most):
            try:
                yield self.ids.next_id()
            except IdsUnavailable:
                return


async def rows(database: Database) -> dict[int, sa.Row[Any]]:
    """The rows of all worker numbers."""
    found = await database.read(lambda connection: list(connection.execute(sa.select(worker_table))))
    return {row.worker: row for row in found}
