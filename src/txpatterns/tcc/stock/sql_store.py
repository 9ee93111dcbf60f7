"""The statements of a stock in a database, in whosever transaction.

A reservation's row is locked before its items, and items in their order, so that no two of these wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from txpatterns.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite, moment
from txpatterns.database.schema import Instant
from txpatterns.tcc.stock.answers import must_be, must_not_be_sold, not_known, too_far, too_late
from txpatterns.tcc.stock.contract import Level, Reservation, State
from txpatterns.tcc.stock.ledger import Hold, Settled, Total
from txpatterns.tcc.stock.limits import Limits, Wish, read, written
from txpatterns.tcc.stock.tables import StockTables

_FORGOTTEN_AT_ONCE = 500


class SqlStore:
    """The statements of one stock. Those of every reservation are made once: that costs more than to run them."""

    def __init__(self, database: Database, tables: StockTables, limits: Limits) -> None:
        self.limits = limits
        self.item, self.held, self.gate = tables.item, tables.reservation, tables.gate
        self.now = database.now
        self._seconds = database.seconds
        item = self.item.c
        n = sa.bindparam("n", type_=sa.BigInteger)
        this = sa.update(self.item).where(item.item == sa.bindparam("which", type_=sa.String))
        self._take = this.where(item.available >= n).values(available=item.available - n, reserved=item.reserved + n)
        self._first = self._first_of(on_sqlite=database.is_sqlite)
        self._moves = {
            State.RELEASED: this.values(available=item.available + n, reserved=item.reserved - n),
            State.SOLD: this.values(reserved=item.reserved - n, sold=item.sold + n),
        }

    def reserve(self, connection: Connection, wish: Wish) -> Reservation:
        """Set aside what is wanted, or write down that there is too little; gives what is there under the id now.

        Raises:
            ReservationExpired: it comes too late.
            StockInputInvalid: its time is too far ahead.
            UnknownItem: the stock has never heard of an item.
        """
        if not self._write_down(connection, wish):
            found = self.find(connection, wish.id)
            if found is None:
                raise self._mistimed(connection, wish)
            return found
        scarce = self.take(connection, wish.lines)
        if not scarce:
            return Reservation(wish.id, State.HELD, wish.lines, wish.until)
        there = {name: level.available for name, level in self.levels(connection, scarce).items()}
        mine = self.held.c.id == wish.id
        if len(there) < len(scarce):
            connection.execute(sa.delete(self.held).where(mine))
            raise not_known(set(scarce) - set(there))
        short = {name: min(there[name], wish.lines[name] - 1) for name in scarce}  # some may have come since
        refused = {"state": State.REFUSED, "short": written(short), "forget_at": self._forget_at()}
        connection.execute(sa.update(self.held).where(mine).values(refused))
        return Reservation(wish.id, State.REFUSED, wish.lines, wish.until, short=short)

    def take(self, connection: Connection, lines: Mapping[str, int]) -> list[str]:
        """Set these quantities aside, all or none; gives the items of which there is too little."""
        taken, short = {}, []
        for item, n in sorted(lines.items()):
            if connection.execute(self._take, {"which": item, "n": n}).rowcount == 1:
                taken[item] = n
            else:
                short.append(item)
        if short:
            self._move(connection, taken, State.RELEASED)
        return short

    def confirm(self, connection: Connection, reservation_id: str) -> Settled:
        """Take what is set aside out of the stock. Raises UnknownReservation, ReservationEnded."""
        settled = self._end(connection, reservation_id, State.SOLD)
        if settled is not None:
            return settled
        row = self._row(connection, reservation_id)
        must_be(State.SOLD, reservation_id, None if row is None else State(row.state))
        return _kept(row)

    def cancel(self, connection: Connection, reservation_id: str) -> Settled:
        """Make what is set aside available again, or shut a reservation out. Raises ReservationEnded."""
        settled = self._end(connection, reservation_id, State.RELEASED)
        if settled is not None:
            return settled
        if self._shut_out(connection, reservation_id):
            return Settled(False)
        # It was being made, and that is committed now.
        settled = self._end(connection, reservation_id, State.RELEASED)
        if settled is not None:
            return settled
        row = self._row(connection, reservation_id)
        must_not_be_sold(reservation_id, None if row is None else State(row.state))
        return _kept(row)

    def prolong(self, connection: Connection, reservation_id: str, until: datetime) -> bool:
        """Put off, once, when it is asked for. Raises UnknownReservation, ReservationEnded, StockInputInvalid."""
        held, given = self.held.c, sa.literal(until, Instant)
        latest = self.now(self.limits.longest)
        later = (held.prolonged.is_(sa.false()), held.expires_at < given, given <= latest)
        change = sa.update(self.held).where(held.id == reservation_id, held.state == State.HELD, *later)
        if connection.execute(change.values(expires_at=given, prolonged=sa.true())).rowcount == 1:
            return True
        row = self._row(connection, reservation_id)
        must_be(State.HELD, reservation_id, None if row is None else State(row.state))
        if connection.execute(sa.select(given > latest)).scalar():
            raise too_far(reservation_id, self.limits.longest)
        return False

    def load(self, connection: Connection, quantities: Mapping[str, int]) -> Sequence[str]:
        """Add the items that are not known; gives which these were."""
        rows = [{"item": item, "available": n} for item, n in sorted(quantities.items())]
        if not rows:
            return []
        insert = insert_into(self.item, on_sqlite=is_sqlite(connection)).on_conflict_do_nothing()
        return sorted(connection.execute(insert.returning(self.item.c.item), rows).scalars())

    def set_available(self, connection: Connection, item: str, quantity: int) -> Total:
        """Say how many are available now; gives what there is in all."""
        known = self.item.c
        insert = insert_into(self.item, on_sqlite=is_sqlite(connection)).values(item=item, available=quantity)
        counted = {"available": quantity, "version": known.version + 1}
        total = (known.available + known.reserved + known.sold).label("total")
        put = insert.on_conflict_do_update(index_elements=["item"], set_=counted).returning(known.version, total)
        row = connection.execute(put).one()
        return Total(row.version, row.total)

    def totals(self, connection: Connection, items: Iterable[str]) -> dict[str, Total]:
        """Give what there is in all of the items that are known."""
        known = self.item.c
        total = (known.available + known.reserved + known.sold).label("total")
        query = sa.select(known.item, known.version, total).where(known.item.in_(list(items)))
        return {row.item: Total(row.version, row.total) for row in connection.execute(query)}

    def levels(self, connection: Connection, items: Iterable[str]) -> dict[str, Level]:
        """Give the levels of the items that are known."""
        known = self.item.c
        query = sa.select(known.item, known.available, known.reserved, known.sold).where(known.item.in_(list(items)))
        return {row.item: Level(row.available, row.reserved, row.sold) for row in connection.execute(query)}

    def find(self, connection: Connection, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands."""
        row = self._row(connection, reservation_id)
        return None if row is None else read_row(row)

    def overdue(self, connection: Connection, most: int) -> list[str]:
        """Give reservations that are set aside though their time is over, the oldest first."""
        held = self.held.c
        query = sa.select(held.id).where(held.state == State.HELD, held.expires_at <= self.now(timedelta(0)))
        return list(connection.execute(query.order_by(held.expires_at, held.id).limit(most)).scalars())

    def forget(self, connection: Connection) -> int:
        """Forget some ended reservations that were to be remembered until now; says how many."""
        held = self.held.c
        old = sa.select(held.id).where(held.forget_at <= self.now(timedelta(0))).order_by(held.forget_at)
        return connection.execute(sa.delete(self.held).where(held.id.in_(old.limit(_FORGOTTEN_AT_ONCE)))).rowcount

    def _write_down(self, connection: Connection, wish: Wish) -> bool:
        """Insert the reservation if it is the first of its id and comes in time; waits for another of the same id."""
        given = {"id": wish.id, "lines": written(wish.lines), "until": wish.until}
        times = {"earliest": self._seconds(-self.limits.skew), "latest": self._seconds(self.limits.longest)}
        return connection.execute(self._first, {**given, **times}).first() is not None

    def _first_of(self, *, on_sqlite: bool) -> sa.Executable:
        until = sa.bindparam("until", type_=Instant)
        row: dict[str, sa.ColumnElement[Any]] = {
            "id": sa.bindparam("id", type_=sa.String),
            "state": sa.literal(State.HELD, sa.String),
            "lines": sa.bindparam("lines", type_=sa.Text),
            "expires_at": until,
        }
        in_time = sa.select(*row.values()).where(until >= moment("earliest"), until <= moment("latest"))
        insert = insert_into(self.held, on_sqlite=on_sqlite).from_select(list(row), in_time)
        return insert.on_conflict_do_nothing().returning(self.held.c.id)

    def _mistimed(self, connection: Connection, wish: Wish) -> Exception:
        late = sa.select(sa.literal(wish.until, Instant) < self.now(-self.limits.skew))
        return too_late(wish) if connection.execute(late).scalar() else too_far(wish.id, self.limits.longest)

    def _shut_out(self, connection: Connection, reservation_id: str) -> bool:
        """Insert a cancellation where there is no reservation; waits for one that is just being made."""
        row = {"id": reservation_id, "state": State.RELEASED, "lines": "[]", "forget_at": self._forget_at()}
        insert = insert_into(self.held, on_sqlite=is_sqlite(connection)).values(row).on_conflict_do_nothing()
        return connection.execute(insert.returning(self.held.c.id)).first() is not None

    def _end(self, connection: Connection, reservation_id: str, state: State) -> Settled | None:
        """End a reservation that is held, and move its quantities; None where it is not held."""
        held = self.held.c
        end = sa.update(self.held).where(held.id == reservation_id, held.state == State.HELD)
        end = end.values(state=state, forget_at=self._forget_at())
        row = connection.execute(end.returning(held.lines, held.generation, held.number)).first()
        if row is None:
            return None
        self._move(connection, read(row.lines), state)
        return Settled(True, hold_of(row))

    def _move(self, connection: Connection, lines: Mapping[str, int], state: State) -> None:
        for item, n in sorted(lines.items()):
            if connection.execute(self._moves[state], {"which": item, "n": n}).rowcount != 1:
                raise not_known([item])

    def _row(self, connection: Connection, reservation_id: str) -> Row[Any] | None:
        return connection.execute(self.rows().where(self.held.c.id == reservation_id)).first()

    def rows(self) -> sa.Select[Any]:
        """Select what ``read_row`` reads."""
        held = self.held.c
        expires_at = sa.type_coerce(held.expires_at, Instant).label("expires_at")
        return sa.select(
            held.id, held.state, held.lines, held.short, expires_at, held.prolonged, held.generation, held.number
        )

    def _forget_at(self) -> sa.ColumnElement[datetime]:
        # No reservation that it answers for can still arrive in time then.
        return self.now(self.limits.longest + self.limits.keep)


def read_row(row: Row[Any]) -> Reservation:
    """Give a reservation as it is written down."""
    short = {} if row.short is None else read(row.short)
    return Reservation(row.id, State(row.state), read(row.lines), row.expires_at, bool(row.prolonged), short)


def hold_of(row: Row[Any]) -> Hold:
    """Give the hold of Redis that a row names."""
    return Hold(row.generation or 0, row.number or 0)


def _kept(row: Row[Any] | None) -> Settled:
    return Settled(False) if row is None else Settled(False, hold_of(row))
