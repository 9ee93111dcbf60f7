"""What the stock listens to: set aside for a new order, put back for a canceled one, hand over for a confirmed one."""

from __future__ import annotations

from datetime import datetime

from shop.events import (
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
    OrderLine,
    ReservationMade,
    ReservationReleased,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSold,
)
from shop.inventory.domain import needs
from shop.inventory.shelf import Shelf, stock_lines
from txpatterns import App, Reject, Transaction
from txpatterns.tcc import BranchTransaction


def listen(app: App, shelf: Shelf) -> None:
    """Connect the stock to the life of orders."""

    @app.on(OrderCreated)
    async def reserve_stock(event: OrderCreated, tx: Transaction) -> None:
        wanted = needs((line.sku, line.quantity) for line in event.lines)
        short = await shelf.set_aside(tx.session, event.order_id, wanted, event.pay_by)
        if short:
            tx.emit(StockRejected(order_id=event.order_id, short=stock_lines(short)))
        elif short is not None:
            tx.emit(StockReserved(order_id=event.order_id, lines=stock_lines(wanted), until=event.pay_by))

    @app.on(OrderCancelRequested)
    async def release_stock(event: OrderCancelRequested, tx: Transaction) -> None:
        back = await shelf.put_back(tx.session, event.order_id)
        if back is not None:
            tx.emit(StockReleased(order_id=event.order_id, lines=stock_lines(back)))

    @app.on(OrderConfirmed)
    async def sell_stock(event: OrderConfirmed, tx: Transaction) -> None:
        sold = await shelf.hand_over(tx.session, event.order_id)
        if sold is not None:
            tx.emit(StockSold(order_id=event.order_id, lines=stock_lines(sold)))


def take_part(app: App, shelf: Shelf) -> None:
    """Let the stock be reserved, confirmed and canceled in the transactions of others."""

    @app.tcc.participant("stock")
    async def stock(tx: BranchTransaction, order_id: str, until: str, lines: tuple[OrderLine, ...]) -> None:
        wanted, pay_by = needs((line.sku, line.quantity) for line in lines), datetime.fromisoformat(until)
        short = await shelf.set_aside(tx.session, order_id, wanted, pay_by)
        if short is None:
            raise Reject(f"what order {order_id} wanted was decided before")
        if short:
            raise Reject(f"there is too little of {', '.join(short)}")
        tx.emit(ReservationMade(order_id=order_id, lines=stock_lines(wanted), until=pay_by))

    @stock.confirm
    async def sell(tx: BranchTransaction, order_id: str, until: str, lines: tuple[OrderLine, ...]) -> None:
        # The order's confirmation may have come first; whoever comes second finds it sold.
        sold = await shelf.hand_over(tx.session, order_id)
        if sold is not None:
            tx.emit(StockSold(order_id=order_id, lines=stock_lines(sold)))

    @stock.cancel
    async def release(tx: BranchTransaction, order_id: str, until: str, lines: tuple[OrderLine, ...]) -> None:
        back = await shelf.put_back(tx.session, order_id)
        if back is not None:
            tx.emit(ReservationReleased(order_id=order_id, lines=stock_lines(back)))
