"""What the tests of ids share: a clock and machines that are tended by hand, and a look at the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa

from txpatterns import Database
from txpatterns.clock import Clock
from txpatterns.database.setup import create_missing
from txpatterns.errors import IdsUnavailable, WorkersExhausted
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers
from txpatterns.ids.layout import millisecond_of
from txpatterns.ids.marks import Grant, granted, renewed
from txpatterns.ids.schema import worker_table
from txpatterns.ids.upkeep import _Rounds
from txpatterns.ids.worker_store import Renewal, WorkerStore

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


class OwnClock:
    """That of a machine, as it shows to who makes ids there: it is moved by hand, and does not say so."""

    offset = timedelta(0)
    instant: datetime | None = None

    def __init__(self, hand: Clock) -> None:
        self.now, self.monotonic, self.wait = hand.now, hand.monotonic, hand.wait


async def prepared(url: str, clock: HandClock | None = None) -> Database:
    """A database with our tables."""
    database = Database(url, clock=clock)
    await database.transact(create_missing)
    return database


class Machine:
    """One process that makes ids, whose worker number is tended when the test says so."""

    def __init__(self, store: Database | WorkerStore, clock: Clock | None = None) -> None:
        hand = clock or (store.clock if isinstance(store, Database) else None)
        self.numbers = WorkerNumbers(store, clock=hand and OwnClock(hand))
        self.ids = SnowflakeGenerator(self.numbers)
        self.numbers.upkeep._part = _Rounds()  # nobody begins a thread

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


class MemoryWorkers:
    """A store of worker numbers in memory, by the rules of marks; its clock is set by hand."""

    def __init__(self, numbers: int) -> None:
        self.now = millisecond_of(START)
        self.by_owner_alone = False
        """The planted bug: whoever once had a number renews it."""
        self.rows: dict[int, _Row] = {number: _Row() for number in range(numbers)}

    async def take(self, owner: str, tokens: Sequence[str], token: str) -> Grant:
        await self.release(owner, tokens)
        free = [(row.mark >= self.now, row.mark, worker) for worker, row in self.rows.items() if row.until <= self.now]
        if not free:
            raise WorkersExhausted
        *_, worker = min(free)
        grant = granted(worker, self.rows[worker].mark, self.now)
        self.rows[worker] = _Row(owner, token, grant.mark, self.now + 15_000)
        return grant

    async def renew(self, worker: int, owner: str, tokens: Sequence[str], token: str) -> Renewal | None:
        row = self.rows[worker]
        if row.owner != owner or (row.token not in tokens and not self.by_owner_alone):
            return None
        self.rows[worker] = _Row(owner, token, renewed(row.mark, self.now), self.now + 15_000)
        return Renewal(self.rows[worker].mark, self.now)

    async def release(self, owner: str, tokens: Sequence[str]) -> None:
        for worker, row in self.rows.items():
            if row.owner == owner and row.token in tokens:
                self.rows[worker] = replace(row, until=self.now)

    def beside(self) -> Self:
        return self

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class _Row:
    owner: str = ""
    token: str = ""
    mark: int = 0
    until: int = 0
