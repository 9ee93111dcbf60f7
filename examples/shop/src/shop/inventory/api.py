"""What the stock answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import ReservationMade, ReservationRefused, ReservationReleased
from shop.inventory.domain import needs
from shop.inventory.models import ReservationRow, StockRow
from shop.inventory.shelf import put_back, set_aside, stock_lines
from shop.ports import Reservation, StockLevel, StockNeed
from txpatterns import App, Event


class InventoryApi:
    """Stock levels and reservations, over their own database."""

    def __init__(self, app: App) -> None:
        self.app = app

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
            rows = await session.scalars(select(StockRow).where(StockRow.sku.in_(skus)))
            return [
                StockLevel(sku=row.sku, available=row.available, reserved=row.reserved, sold=row.sold) for row in rows
            ]

    async def reserve(self, order_id: str, lines: list[StockNeed], until: datetime) -> Reservation:
        """Set things aside for an order, all of them or none; asked again it changes nothing and answers the same.

        What was released stays released: a wish that comes after its own release sets nothing aside.
        """
        wanted = needs((line.sku, line.quantity) for line in lines)

        async def work(session: AsyncSession) -> Event | None:
            short = await set_aside(session, order_id, wanted, until)
            if short:
                return ReservationRefused(order_id=order_id, short=stock_lines(short))
            made = ReservationMade(order_id=order_id, lines=stock_lines(wanted), until=until)
            return None if short is None else made

        return await self._once(order_id, work)

    async def release(self, order_id: str) -> Reservation:
        """Put back what is set aside for an order. Again, or where nothing is, changes nothing."""

        async def work(session: AsyncSession) -> Event | None:
            back = await put_back(session, order_id)
            return None if back is None else ReservationReleased(order_id=order_id, lines=stock_lines(back))

        return await self._once(order_id, work)

    async def _once(self, order_id: str, work: Callable[[AsyncSession], Awaitable[Event | None]]) -> Reservation:
        """Do it and tell of it in one transaction; gives how the order's reservation stands then."""
        told: Event | None = None
        try:
            async with self.app.transaction() as session:
                told = await work(session)
                if told is not None:
                    self.app.outbox.add(session, told)
        except IntegrityError:
            told = None  # the same wish came twice at once, and the other one was first
        async with self.app.session() as session:
            row = await session.get_one(ReservationRow, order_id)
            refused = told.short if isinstance(told, ReservationRefused) else ()
            short = [StockNeed(sku=line.sku, quantity=line.quantity) for line in refused]
            return Reservation(state=row.state, short=short)
