"""Setting stock aside, putting it back and handing it over: each once for an order, in the transaction of who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import StockLine
from shop.inventory.domain import Stock, shortages
from shop.inventory.models import LedgerRow, ReservationRow, StockRow


class Shelf(Protocol):
    """Where the goods are: in the service's own tables, or in Redis in front of a ledger.

    Each is done in the transaction of who asks, as far as the service's own database is concerned: what was decided for
    an order, and the movements. It is done once for an order, however often it is asked for.
    """

    async def set_aside(
        self, session: AsyncSession, order_id: str, wanted: Mapping[str, int], until: datetime
    ) -> Mapping[str, int] | None:
        """Set things aside for an order, all or nothing; gives of what there is too little, with how many there are.

        None: it was decided before, or released before it was decided, and nothing has changed.
        """

    async def put_back(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Put back what is set aside for an order; gives what that was. None: it was decided otherwise before."""

    async def hand_over(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Hand over what is set aside for an order; gives what that was. None: nothing is."""

    async def levels(self, session: AsyncSession, skus: Iterable[str]) -> Mapping[str, Stock]:
        """Give the levels of these; an unknown one is left out."""


class OwnShelf:
    """The goods in the service's own tables."""

    async def set_aside(
        self, session: AsyncSession, order_id: str, wanted: Mapping[str, int], until: datetime
    ) -> Mapping[str, int] | None:
        """Set things aside for an order."""
        return await set_aside(session, order_id, wanted, until)

    async def put_back(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Put back what is set aside for an order."""
        return await put_back(session, order_id)

    async def hand_over(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Hand over what is set aside for an order."""
        return await hand_over(session, order_id)

    async def levels(self, session: AsyncSession, skus: Iterable[str]) -> Mapping[str, Stock]:
        """Give the levels of these."""
        rows = await session.scalars(select(StockRow).where(StockRow.sku.in_(list(skus))))
        return {row.sku: Stock(row.available, row.reserved, row.sold) for row in rows}


async def set_aside(
    session: AsyncSession, order_id: str, wanted: Mapping[str, int], until: datetime
) -> Mapping[str, int] | None:
    """Set things aside for an order, all or nothing; gives of what there is too little, with how many there are.

    None: it was decided before, or released before it was decided, and nothing has changed.
    """
    if await session.get(ReservationRow, order_id, with_for_update=True):
        return None
    shelf = await _shelf(session, wanted)
    short = shortages(wanted, {sku: row.available for sku, row in shelf.items()})
    state = "rejected" if short else "reserved"
    lines = [line.model_dump() for line in stock_lines(wanted)]
    session.add(ReservationRow(order_id=order_id, state=state, lines=lines, until=until))
    if not short:
        _move(session, shelf, wanted, order_id, "reserve", Stock.reserve)
    return short


async def put_back(session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
    """Put back what is set aside for an order; gives what that was. None: it was decided otherwise before."""
    held = await session.get(ReservationRow, order_id, with_for_update=True)
    if held is None:
        # Written down, so that an order that comes after its own cancellation sets nothing aside.
        session.add(ReservationRow(order_id=order_id, state="released", lines=[], until=datetime.now(UTC)))
        return {}
    if held.state != "reserved":
        return None
    wanted = held_in(held)
    _move(session, await _shelf(session, wanted), wanted, order_id, "release", Stock.release)
    held.state = "released"
    return wanted


async def hand_over(session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
    """Hand over what is set aside for an order; gives what that was. None: nothing is."""
    held = await session.get(ReservationRow, order_id, with_for_update=True)
    if held is None or held.state != "reserved":
        return None
    wanted = held_in(held)
    _move(session, await _shelf(session, wanted), wanted, order_id, "sell", Stock.sell)
    held.state = "sold"
    return wanted


def stock_lines(wanted: Mapping[str, int]) -> tuple[StockLine, ...]:
    """Write numbers of things as events carry them."""
    return tuple(StockLine(sku=sku, quantity=quantity) for sku, quantity in wanted.items())


def held_in(row: ReservationRow) -> dict[str, int]:
    return {line["sku"]: line["quantity"] for line in row.lines}


async def _shelf(session: AsyncSession, wanted: Mapping[str, int]) -> dict[str, StockRow]:
    # Locked in the order of the skus, so that two orders with the same things cannot wait for each other.
    query = select(StockRow).where(StockRow.sku.in_(wanted)).order_by(StockRow.sku).with_for_update()
    return {row.sku: row for row in await session.scalars(query)}


def _move(
    session: AsyncSession,
    shelf: Mapping[str, StockRow],
    wanted: Mapping[str, int],
    order_id: str,
    movement: str,
    step: Callable[[Stock, int], Stock],
) -> None:
    now = datetime.now(UTC)
    for sku, quantity in wanted.items():
        row = shelf[sku]
        after = step(Stock(row.available, row.reserved, row.sold), quantity)
        row.available, row.reserved, row.sold = after.available, after.reserved, after.sold
        session.add(LedgerRow(order_id=order_id, sku=sku, movement=movement, quantity=quantity, at=now))
