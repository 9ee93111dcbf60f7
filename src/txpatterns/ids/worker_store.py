"""Worker numbers in the database: one row for each, with the mark of its ids.

A number is renewed by whoever knows the last token, and gets a new one by that. Of two copies of one process, a cloned
machine say, the second to renew finds another token, and has lost the number.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.database.schema import Instant
from txpatterns.errors import WorkersExhausted
from txpatterns.ids.layout import WORKERS
from txpatterns.ids.marks import LEASE, Grant, agreed, granted, renewed
from txpatterns.ids.schema import worker_table

RESERVED = WORKERS - 1
"""The worker number of blocks (see `blocks`): no generator ever gets it."""

_row = worker_table.c


class Renewal(NamedTuple):
    """The mark after a renewal, and the millisecond of the store's clock."""

    mark: int
    now: int


class Unused(NamedTuple):
    """A number that nobody has, and its mark."""

    worker: int
    mark: int


class WorkerStore(Protocol):
    """Where worker numbers are kept. Each call is one transaction; ``tokens`` are those that may be the last one.

    Of a call whose answer is lost it is not known what it did, so there may be several.
    """

    async def take(self, owner: str, tokens: Sequence[str], token: str) -> Grant:
        """Give what was held under ``tokens`` back, and take a number that nobody has.

        Raises:
            ClockWrong: the machine's clock and the store's differ by more than a second.
            WorkersExhausted: there is none.
        """

    async def renew(self, worker: int, owner: str, tokens: Sequence[str], token: str) -> Renewal | None:
        """Keep a number, under a new token; None: somebody else has it. Raises ClockWrong."""

    async def release(self, owner: str, tokens: Sequence[str]) -> None:
        """Give a number back. Its mark stays."""

    def beside(self) -> Self:
        """Give a store like this one with connections of its own, for another event loop."""

    async def close(self) -> None:
        """Close the connections of a store that ``beside`` has made."""


class DatabaseWorkers:
    """The store of worker numbers in a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._label = f"{socket.gethostname()}:{os.getpid()}"[:200]

    async def take(self, owner: str, tokens: Sequence[str], token: str) -> Grant:
        """See `WorkerStore`."""

        def work(connection: Connection) -> Grant:
            now = self._now(connection)
            self._free(connection, owner, tokens)
            held = {"owner": owner, "token": token, "expires_at": self._database.now(LEASE), "label": self._label}
            found = self._unused(connection, now)
            if found is None and (made := self._made(connection, now, held)) is not None:
                return made
            found = found or self._unused(connection, None)
            if found is None:
                raise WorkersExhausted
            grant = granted(found.worker, found.mark, now)
            connection.execute(
                sa.update(worker_table).where(_row.worker == grant.worker).values(**held, mark=grant.mark)
            )
            return grant

        return await self._database.transact(work, urgent=True)

    async def renew(self, worker: int, owner: str, tokens: Sequence[str], token: str) -> Renewal | None:
        """See `WorkerStore`."""

        def work(connection: Connection) -> Renewal | None:
            ours = sa.and_(_row.worker == worker, _row.owner == owner, _row.token.in_(tokens))
            query = sa.select(sa.type_coerce(self._database.now(), Instant), _row.mark).where(ours)
            before = self._database.clock.now()
            found = connection.execute(query if is_sqlite(connection) else query.with_for_update()).one_or_none()
            if found is None:
                return None
            now = agreed(before, found[0], self._database.clock.now())
            mark = renewed(found.mark, now)
            held = {"token": token, "mark": mark, "expires_at": self._database.now(LEASE)}
            connection.execute(sa.update(worker_table).where(_row.worker == worker).values(**held))
            return Renewal(mark, now)

        return await self._database.transact(work, urgent=True)

    async def release(self, owner: str, tokens: Sequence[str]) -> None:
        """See `WorkerStore`."""
        await self._database.transact(lambda connection: self._free(connection, owner, tokens))

    def beside(self) -> Self:
        """See `WorkerStore`."""
        like = self._database
        return type(self)(Database(like.engine, schema=like.home.schema, clock=like.clock, listen_url=like.listen_url))

    async def close(self) -> None:
        """See `WorkerStore`."""
        await self._database.close()

    def _now(self, connection: Connection) -> int:
        before = self._database.clock.now()
        told = connection.execute(sa.select(sa.type_coerce(self._database.now(), Instant))).scalar_one()
        return agreed(before, told, self._database.clock.now())

    def _free(self, connection: Connection, owner: str, tokens: Sequence[str]) -> None:
        ours = sa.and_(_row.owner == owner, _row.token.in_(tokens))
        connection.execute(sa.update(worker_table).where(ours).values(expires_at=self._database.now()))

    def _unused(self, connection: Connection, now: int | None) -> Unused | None:
        """Lock the number with the lowest mark that nobody has, if there is one whose mark has passed."""
        query = sa.select(_row.worker, _row.mark).where(_row.expires_at <= self._database.now())
        query = query.where(_row.worker != RESERVED)
        if now is not None:
            query = query.where(_row.mark < now)
        query = query.order_by(_row.mark, _row.worker).limit(1)
        if not is_sqlite(connection):
            query = query.with_for_update(skip_locked=True)
        found = connection.execute(query).one_or_none()
        return None if found is None else Unused(*found)

    def _made(self, connection: Connection, now: int, held: Mapping[str, object]) -> Grant | None:
        """Begin a number that was never used; None: there is none."""
        used = set(connection.execute(sa.select(_row.worker)).scalars())
        insert = insert_into(worker_table, on_sqlite=is_sqlite(connection)).on_conflict_do_nothing()
        for worker in range(RESERVED):
            if worker in used:
                continue
            grant = granted(worker, 0, now)
            row = insert.values(worker=worker, mark=grant.mark, **held).returning(_row.worker)
            if connection.execute(row).one_or_none() is not None:  # else somebody has just begun it
                return grant
        return None
