"""Ids in blocks from the database: no clock of this machine has a part in them."""

from __future__ import annotations

import threading
from typing import NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.database.schema import Instant
from txpatterns.errors import IdsUnavailable
from txpatterns.ids.layout import TICKS, first_tick, id_of, millisecond_of
from txpatterns.ids.marks import ending
from txpatterns.ids.schema import worker_table
from txpatterns.ids.upkeep import Upkeep
from txpatterns.ids.worker_store import RESERVED
from txpatterns.runtime.forks import forget_after_fork

_row = worker_table.c


class Block(NamedTuple):
    """Ticks of the reserved worker number that nobody else gets: from the first up to, but without, the end."""

    first: int
    end: int


class BlockStore:
    """Draws blocks from the one row of the reserved worker number, which all processes share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def draw(self, milliseconds: int) -> Block:
        """Take the next milliseconds above its mark, or those of the database's clock where that is later."""

        def work(connection: Connection) -> Block:
            row = {"worker": RESERVED, "owner": "", "token": "", "mark": 0, "label": "blocks"}
            insert = insert_into(worker_table, on_sqlite=is_sqlite(connection)).values(
                **row, expires_at=self._database.now()
            )
            # The update of nothing locks the row, whether it was there or not.
            locked = insert.on_conflict_do_update(index_elements=[_row.worker], set_={"label": "blocks"})
            told = sa.type_coerce(self._database.now(), Instant)
            mark, now = connection.execute(locked.returning(_row.mark, told)).one()
            above = max(mark, millisecond_of(now) - 1)
            after = ending(above + milliseconds)
            connection.execute(sa.update(worker_table).where(_row.worker == RESERVED).values(mark=after))
            return Block(first_tick(above + 1), first_tick(after + 1))

        return await self._database.transact(work)

    def beside(self) -> Self:
        """Give one with connections of its own."""
        return type(self)(self._database.beside())

    async def close(self) -> None:
        """Close the connections of one that ``beside`` has made."""
        await self._database.close()


class DatabaseBlocks:
    """Makes 64-bit ids from blocks of the database: for a chain, while the clock of this machine is wrong.

    They look like those of a generator, under worker number 1023, which no generator gets; so both may stand in one
    column. A thread on a connection of its own keeps at least ``reserve`` ids at hand, in one block or two: while the
    database is away there are so many, and then none. They grow within one process; of several, they are in order by
    block only.
    """

    def __init__(self, database: Database, *, reserve: int = 4 * TICKS) -> None:
        self._milliseconds = max(1, -(-reserve // TICKS))
        self._upkeep = Upkeep(
            "blocks of ids", BlockStore(database), database.clock, tend=self._tend, leave=self._forget_all
        )
        self._forget()
        forget_after_fork(self)

    def next_id(self) -> int:
        """Make an id. The first one in a process waits for a block, at most five seconds.

        Raises:
            IdsUnavailable: the blocks are used up, and the database gives none.
        """
        made = self._drawn()
        if made is None and self._upkeep.begin():
            made = self._drawn()
        if made is None:
            raise IdsUnavailable(f"There is no block of ids: {self._upkeep.failure or 'the next one is on its way'}.")
        return made

    def prepare(self) -> None:
        """Begin to draw blocks."""
        self._upkeep.begin(wait=False)

    def close(self) -> None:
        """End the thread. What is left of the blocks is never used."""
        self._upkeep.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In a forked child: the blocks are the parent's."""
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._next = self._end = 0
        self._reserve: Block | None = None

    def _drawn(self) -> int | None:
        with self._lock:
            reserve = self._reserve if self._next == self._end else None
            if reserve is not None:
                (self._next, self._end), self._reserve = reserve, None
            if self._next == self._end:
                return None
            tick = self._next
            self._next += 1
        if reserve is not None:
            self._upkeep.hurry()
        return id_of(RESERVED, tick)

    async def _tend(self, store: BlockStore) -> None:
        while self._reserve is None:
            block = await store.draw(self._milliseconds)
            with self._lock:
                if self._next == self._end:
                    self._next, self._end = block
                else:
                    self._reserve = block

    async def _forget_all(self, _: BlockStore) -> None:
        self._forget()
