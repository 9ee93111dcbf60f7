"""What the cart listens to."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from shop.cart.domain import Line, without_bought
from shop.cart.models import CartRow, MovedLineRow, SettledOrderRow
from shop.events import CartChanged, CartSettled, CheckoutCompleted, OrderConfirmed
from txpatterns import App, Transaction


def listen(app: App) -> None:
    """Take what was bought out of the cart once its order is confirmed, or its checkout is complete."""

    @app.on(OrderConfirmed)
    async def settle_cart(event: OrderConfirmed, tx: Transaction) -> None:
        await _settle(event, tx)

    @app.on(CheckoutCompleted, name="cart-service-consumer")
    async def settle_checkout(event: CheckoutCompleted, tx: Transaction) -> None:
        await _settle(event, tx)


async def _settle(event: OrderConfirmed | CheckoutCompleted, tx: Transaction) -> None:
    """Take an order's things out, once: the same lines may have been filled again since."""
    cart = await tx.session.get(CartRow, event.visitor_id, with_for_update=True)
    known = await tx.session.get(SettledOrderRow, event.order_id)
    if cart is None or known is not None:
        return
    tx.session.add(SettledOrderRow(order_id=event.order_id))
    bought = {line.cart_line_id: line.quantity for line in event.lines}
    removed = _take_out(cart, bought)
    # The visitor's cart is locked: what was moved out of it before is known by now.
    moved = (await tx.session.scalars(select(MovedLineRow).where(MovedLineRow.id.in_(bought)))).all()
    for owner in sorted({line.visitor_id for line in moved}):
        target = await tx.session.get_one(CartRow, owner, with_for_update=True)
        removed += _take_out(target, {line.line_id: bought[line.id] for line in moved if line.visitor_id == owner})
        tx.emit(CartChanged(visitor_id=owner, version=target.version))
    tx.emit(CartSettled(order_id=event.order_id, visitor_id=event.visitor_id, removed=removed, version=cart.version))


def _take_out(cart: CartRow, bought: Mapping[str, int]) -> int:
    before = [Line(row.id, row.sku, row.quantity) for row in cart.lines]
    left = {line.id: line.quantity for line in without_bought(before, bought)}
    for row in list(cart.lines):
        if row.id not in left:
            cart.lines.remove(row)
        else:
            row.quantity = left[row.id]
    cart.version += 1
    return sum(line.quantity for line in before) - sum(left.values())
