"""What the stock listens to: set aside for a new order, put back for a canceled one, hand over for a confirmed one."""

from __future__ import annotations

from shop.events import (
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSold,
)
from shop.inventory.domain import needs
from shop.inventory.shelf import hand_over, put_back, set_aside, stock_lines
from txpatterns import App, Transaction


def listen(app: App) -> None:
    """Connect the stock to the life of orders."""

    @app.on(OrderCreated)
    async def reserve_stock(event: OrderCreated, tx: Transaction) -> None:
        wanted = needs((line.sku, line.quantity) for line in event.lines)
        short = await set_aside(tx.session, event.order_id, wanted, event.pay_by)
        if short:
            tx.emit(StockRejected(order_id=event.order_id, short=stock_lines(short)))
        elif short is not None:
            tx.emit(StockReserved(order_id=event.order_id, lines=stock_lines(wanted), until=event.pay_by))

    @app.on(OrderCancelRequested)
    async def release_stock(event: OrderCancelRequested, tx: Transaction) -> None:
        back = await put_back(tx.session, event.order_id)
        if back is not None:
            tx.emit(StockReleased(order_id=event.order_id, lines=stock_lines(back)))

    @app.on(OrderConfirmed)
    async def sell_stock(event: OrderConfirmed, tx: Transaction) -> None:
        sold = await hand_over(tx.session, event.order_id)
        if sold is not None:
            tx.emit(StockSold(order_id=event.order_id, lines=stock_lines(sold)))
