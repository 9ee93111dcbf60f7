"""What the stock answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import ReservationMade, ReservationRefused, ReservationReleased, StockSold
from shop.inventory.domain import needs
from shop.inventory.models import ReservationRow, StockRow
from shop.inventory.shelf import OwnShelf, Shelf, stock_lines
from shop.ports import Reservation, StockLevel, StockNeed
from shop.problems import Problem
from txpatterns import App, Event
from txpatterns.errors import StockUnavailable

MOST_OF_ONE = 1_000_000


class InventoryApi:
    """Stock levels and reservations, over their own database."""

    def __init__(self, app: App, shelf: Shelf | None = None) -> None:
        self.app = app
        self.shelf = shelf or OwnShelf()

    async def stock_shelves(self, quantities: Mapping[str, int]) -> None:
        """Fill empty shelves. Shelves that hold something are left alone."""
        async with self.app.transaction() as session:
            if await session.scalar(select(StockRow.sku).limit(1)):
                return
            session.add_all(
                StockRow(sku=sku, available=quantity, reserved=0, sold=0) for sku, quantity in quantities.items()
            )

    async def levels(self, skus: list[str]) -> list[StockLevel]:
        """Give the levels of the named products; an unknown one is left out."""
        async with self.app.session() as session:
            found = await self.shelf.levels(session, skus)
        return [
            StockLevel(sku=sku, available=stock.available, reserved=stock.reserved, sold=stock.sold)
            for sku, stock in found.items()
        ]

    async def reserve(self, order_id: str, lines: list[StockNeed], until: datetime) -> Reservation:
        """Set things aside for an order, all of them or none; asked again it changes nothing and answers the same.

        What was released stays released: a wish that comes after its own release sets nothing aside.

        Raises:
            Problem: ``out-of-stock`` with what is ``short``, ``conflict`` after a release, ``idempotency-key-reused``
                when other things were asked for before, or ``invalid``.
        """
        if not lines or not all(1 <= line.quantity <= MOST_OF_ONE for line in lines):
            raise Problem("invalid", f"Name what to set aside, from 1 to {MOST_OF_ONE} of each.")
        wanted = needs((line.sku, line.quantity) for line in lines)

        async def work(session: AsyncSession) -> Event | None:
            short = await self.shelf.set_aside(session, order_id, wanted, until)
            if short:
                return ReservationRefused(order_id=order_id, short=stock_lines(short))
            made = ReservationMade(order_id=order_id, lines=stock_lines(wanted), until=until)
            return None if short is None else made

        told, row = await self._once(order_id, work)
        if row.state == "released":
            raise Problem("conflict", f"What order {order_id} wanted was called off.")
        if row.lines != [line.model_dump() for line in stock_lines(wanted)]:
            raise Problem("idempotency-key-reused", f"Other things were asked for order {order_id}.")
        if row.state == "rejected":
            short = told.short if isinstance(told, ReservationRefused) else ()
            raise Problem(
                "out-of-stock",
                f"There is too little for order {order_id}.",
                short=[line.model_dump() for line in short],
            )
        return _view(row)

    async def release(self, order_id: str) -> Reservation:
        """Put back what is set aside for an order. Again, or where nothing is, changes nothing.

        Raises:
            Problem: ``conflict`` when it is sold.
        """

        async def work(session: AsyncSession) -> Event | None:
            back = await self.shelf.put_back(session, order_id)
            return None if back is None else ReservationReleased(order_id=order_id, lines=stock_lines(back))

        _, row = await self._once(order_id, work)
        if row.state == "sold":
            raise Problem("conflict", f"What was set aside for order {order_id} is sold.")
        return _view(row)

    async def confirm(self, order_id: str) -> Reservation:
        """Hand over what is set aside for an order; asked again it changes nothing.

        Raises:
            Problem: ``not-found``, or ``conflict`` when it is not set aside any more.
        """
        async with self.app.transaction() as session:
            sold = await self.shelf.hand_over(session, order_id)
            if sold is not None:
                self.app.outbox.add(session, StockSold(order_id=order_id, lines=stock_lines(sold)))
            row = await session.get(ReservationRow, order_id)
            if row is None:
                raise Problem("not-found", f"Nothing was ever set aside for order {order_id}.")
            if row.state != "sold":
                raise Problem("conflict", f"Nothing is set aside for order {order_id}: it is {row.state}.")
            return _view(row)

    async def reservation(self, order_id: str) -> Reservation | None:
        """Say what is set aside for an order; none when nobody has asked for it."""
        async with self.app.session() as session:
            row = await session.get(ReservationRow, order_id)
            return None if row is None else _view(row)

    async def _once(
        self, order_id: str, work: Callable[[AsyncSession], Awaitable[Event | None]]
    ) -> tuple[Event | None, ReservationRow]:
        """Do it and tell of it in one transaction; gives what is told, and how the reservation stands then."""
        told: Event | None = None
        try:
            async with self.app.transaction() as session:
                told = await work(session)
                if told is not None:
                    self.app.outbox.add(session, told)
        except StockUnavailable as error:
            raise Problem("unavailable", "The stock does not answer at this moment.") from error
        except IntegrityError:
            told = None  # the same wish came twice at once, and the other one was first
        async with self.app.session() as session:
            return told, await session.get_one(ReservationRow, order_id)


def _view(row: ReservationRow) -> Reservation:
    return Reservation(
        order_id=row.order_id, state=row.state, lines=[StockNeed.model_validate(line) for line in row.lines]
    )
