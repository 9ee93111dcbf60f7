"""The ledger of a stock in Redis, in the tables of a stock in a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.database.schema import Instant
from txpatterns.tcc.stock.contract import Level, Reservation, State
from txpatterns.tcc.stock.ledger import Held, Hold, Kept, Picture, Settled, Total, Verdict
from txpatterns.tcc.stock.limits import Limits, read, written
from txpatterns.tcc.stock.sql import SqlStock
from txpatterns.tcc.stock.sql_store import SqlStore, hold_of, read_row
from txpatterns.tcc.stock.tables import StockTables


class _Exceeded(Exception):
    """Rolls back what Redis has given away though there is too little."""


class SqlLedger:
    """A `Ledger` in tables of yours, made by `StockTables`; each call is a transaction of its own.

    The tables are those of a `SqlStock`, and ``stock`` is it: for reading them in your transactions, and for going on
    without Redis, if every process does so.
    """

    def __init__(self, database: Database, tables: StockTables, limits: Limits | None = None) -> None:
        self.stock = SqlStock(database, tables, limits)
        self.limits = self.stock.limits
        self._store = SqlStore(database, tables, self.limits)
        self._run = self.stock.transact

    async def place(self) -> Hold:
        """Give the present generation, and the highest number that was kept of it."""
        return await self._run(self._place)

    async def begin(self, after: int, above: int = 0) -> int:
        """Begin a new generation, if ``after`` is still the present one; gives the one that is present then."""
        return await self._run(partial(self._begin, after=after, above=above))

    async def keep(self, held: Sequence[Held], generation: int) -> Kept:
        """Write down what Redis has reserved, all of it or nothing."""
        try:
            return await self._run(partial(self._keep, held=held, generation=generation))
        except _Exceeded:
            return Kept(Verdict.EXCEEDED, {})

    async def confirm(self, reservation_id: str) -> Settled:
        """Take what is set aside out of the stock for good."""
        return await self._run(partial(self._store.confirm, reservation_id=reservation_id))

    async def cancel(self, reservation_id: str) -> Settled:
        """Make what is set aside available again, or shut a reservation out."""
        return await self._run(partial(self._store.cancel, reservation_id=reservation_id))

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when it is asked for."""
        return await self._run(partial(self._store.prolong, reservation_id=reservation_id, until=expires_at))

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Add the items that it does not know; gives which these were."""
        return await self._run(partial(self._store.load, quantities=quantities))

    async def set_available(self, item: str, quantity: int) -> Total:
        """Say how many of an item are available."""
        return await self._run(partial(self._store.set_available, item=item, quantity=quantity))

    async def totals(self, items: Iterable[str]) -> Mapping[str, Total]:
        """Give what there is of these items in all."""
        return await self._run(partial(self._store.totals, items=list(items)))

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands."""
        return await self.stock.reservation(reservation_id)

    async def picture(self) -> Picture:
        """Give everything that is held, and all levels, of one moment."""
        return await self._run(self._picture)

    def _place(self, connection: Connection) -> Hold:
        generation = self._generation(connection, lock=False)
        held = self._store.held.c
        highest = sa.select(sa.func.max(held.number)).where(held.generation == generation)
        return Hold(generation, connection.execute(highest).scalar() or 0)

    def _generation(self, connection: Connection, *, lock: bool) -> int:
        query = sa.select(self._store.gate.c.generation)
        found = connection.execute(query.with_for_update(read=True) if lock else query).scalar()
        return 0 if found is None else int(found)

    def _begin(self, connection: Connection, after: int, above: int) -> int:
        gate = self._store.gate
        insert = insert_into(gate, on_sqlite=is_sqlite(connection)).values(name=gate.name, generation=0)
        connection.execute(insert.on_conflict_do_nothing())
        connection.execute(sa.update(gate).where(gate.c.generation == after).values(generation=max(after, above) + 1))
        return self._generation(connection, lock=False)

    def _keep(self, connection: Connection, held: Sequence[Held], generation: int) -> Kept:
        # The lock is shared: it lets others keep, and no new generation begin before this is committed.
        if self._generation(connection, lock=True) != generation:
            return Kept(Verdict.FENCED, {})
        given = {each.reservation.id: each for each in held}
        new = self._write_down(connection, given)
        wanted: Counter[str] = Counter()
        for name in new:
            wanted.update(given[name].reservation.lines)
        if self._store.take(connection, wanted):
            raise _Exceeded
        return Kept(Verdict.KEPT, {**given, **self._found(connection, given.keys() - new)})

    def _write_down(self, connection: Connection, given: Mapping[str, Held]) -> set[str]:
        """Insert those that are not there, in the order of their ids; gives which these were."""
        table = self._store.held
        rows = [
            {
                "id": name,
                "state": State.HELD,
                "lines": written(each.reservation.lines),
                "until": each.reservation.expires_at,
                "generation": each.hold.generation,
                "number": each.hold.number,
            }
            for name, each in sorted(given.items())
        ]
        insert = insert_into(table, on_sqlite=is_sqlite(connection)).on_conflict_do_nothing()
        insert = insert.values(expires_at=sa.bindparam("until", type_=Instant))
        return set(connection.execute(insert.returning(table.c.id), rows).scalars())

    def _found(self, connection: Connection, names: Iterable[str]) -> dict[str, Held]:
        wanted = sorted(names)
        if not wanted:
            return {}
        rows = connection.execute(self._store.rows().where(self._store.held.c.id.in_(wanted)))
        return {row.id: Held(read_row(row), hold_of(row)) for row in rows}

    def _picture(self, connection: Connection) -> Picture:
        # One statement sees one moment: of two, a reservation that ends between them would be counted in neither.
        item, held = self._store.item.c, self._store.held.c
        items = sa.select(
            item.item.label("name"),
            sa.null().cast(sa.Text).label("lines"),
            item.version.label("first"),
            item.available.label("second"),
            item.reserved.label("third"),
            item.sold.label("fourth"),
            sa.null().cast(sa.DateTime(timezone=True)).label("until"),
        )
        holds = sa.select(
            held.id,
            held.lines,
            held.generation,
            held.number,
            sa.case((held.prolonged, 1), else_=0),
            sa.literal_column("0"),
            held.expires_at,
        )
        both = sa.union_all(items, holds.where(held.state == State.HELD)).subquery().c
        until = sa.type_coerce(both.until, Instant).label("until")
        query = sa.select(both.name, both.lines, both.first, both.second, both.third, both.fourth, until)
        levels: dict[str, tuple[int, Level]] = {}
        reservations = []
        for row in connection.execute(query):
            if row.lines is None:
                levels[row.name] = (row.first, Level(row.second, row.third, row.fourth))
            else:
                made = Reservation(row.name, State.HELD, read(row.lines), row.until, bool(row.third))
                reservations.append(Held(made, Hold(row.first or 0, row.second or 0)))
        return Picture(levels, reservations)
