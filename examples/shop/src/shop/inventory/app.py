"""What the stock listens to: set aside for a new order, put back for a canceled one, hand over for a confirmed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import (
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
    StockLine,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSold,
)
from shop.inventory.domain import Stock, needs, shortages
from shop.inventory.models import LedgerRow, ReservationRow, StockRow
from txpatterns import App, Transaction


def listen(app: App) -> None:
    """Connect the stock to the life of orders."""

    @app.on(OrderCreated)
    async def reserve_stock(event: OrderCreated, tx: Transaction) -> None:
        if await tx.session.get(ReservationRow, event.order_id, with_for_update=True):
            return  # decided already, or canceled before it was decided
        wanted = needs((line.sku, line.quantity) for line in event.lines)
        shelf = await _shelf(tx.session, wanted)
        short = shortages(wanted, {sku: row.available for sku, row in shelf.items()})
        state = "rejected" if short else "reserved"
        tx.session.add(
            ReservationRow(
                order_id=event.order_id,
                state=state,
                lines=[line.model_dump() for line in _lines(wanted)],
                until=event.pay_by,
            )
        )
        if short:
            tx.emit(StockRejected(order_id=event.order_id, short=_lines(short)))
            return
        _move(tx.session, shelf, wanted, event.order_id, "reserve", Stock.reserve)
        tx.emit(StockReserved(order_id=event.order_id, lines=_lines(wanted), until=event.pay_by))

    @app.on(OrderCancelRequested)
    async def release_stock(event: OrderCancelRequested, tx: Transaction) -> None:
        held = await tx.session.get(ReservationRow, event.order_id, with_for_update=True)
        if held is None:
            # Written down, so that an order that comes after its own cancellation sets nothing aside.
            now = datetime.now(UTC)
            tx.session.add(ReservationRow(order_id=event.order_id, state="released", lines=[], until=now))
            tx.emit(StockReleased(order_id=event.order_id, lines=()))
        elif held.state == "reserved":
            wanted = {line["sku"]: line["quantity"] for line in held.lines}
            _move(tx.session, await _shelf(tx.session, wanted), wanted, held.order_id, "release", Stock.release)
            held.state = "released"
            tx.emit(StockReleased(order_id=held.order_id, lines=_lines(wanted)))

    @app.on(OrderConfirmed)
    async def sell_stock(event: OrderConfirmed, tx: Transaction) -> None:
        held = await tx.session.get(ReservationRow, event.order_id, with_for_update=True)
        if held is None or held.state != "reserved":
            return
        wanted = {line["sku"]: line["quantity"] for line in held.lines}
        _move(tx.session, await _shelf(tx.session, wanted), wanted, held.order_id, "sell", Stock.sell)
        held.state = "sold"
        tx.emit(StockSold(order_id=held.order_id, lines=_lines(wanted)))


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


def _lines(wanted: Mapping[str, int]) -> tuple[StockLine, ...]:
    return tuple(StockLine(sku=sku, quantity=quantity) for sku, quantity in wanted.items())
