"""What the orders listen to: an event is a signal, the pure rules decide, and the facts are told in the transaction."""

from __future__ import annotations

from shop.events import (
    CheckoutCancelRequested,
    CheckoutCompleted,
    CheckoutFailed,
    OrderCanceled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderLine,
    OrderPaid,
    PaymentCaptured,
    PaymentFailed,
    PaymentWindowClosed,
    RefundRequested,
    StockRejected,
    StockReleased,
)
from shop.orders.domain import CancelReason, Fact, Signal, decide
from shop.orders.models import OrderRow
from txpatterns import App, Event, Transaction


def listen(app: App) -> None:
    """Connect the order's life to what the other services tell."""

    @app.on(StockRejected)
    async def cancel_unfillable(event: StockRejected, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.STOCK_REJECTED)

    @app.on(PaymentCaptured)
    async def take_payment(event: PaymentCaptured, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.PAYMENT_CAPTURED)

    @app.on(OrderPaid)
    async def confirm(event: OrderPaid, tx: Transaction) -> None:
        # A step of its own, so that a crash after the payment finds the order paid and goes on from there.
        await _apply(tx, event.order_id, Signal.PAYMENT_CHECKED)

    @app.on(PaymentFailed)
    async def give_up_unpaid(event: PaymentFailed, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.PAYMENT_FAILED)

    @app.on(PaymentWindowClosed)
    async def give_up_late(event: PaymentWindowClosed, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.WINDOW_CLOSED)

    @app.on(StockReleased)
    async def finish_canceling(event: StockReleased, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.STOCK_RELEASED)

    @app.on(CheckoutCompleted, name="orders-service")
    async def confirm_checkout(event: CheckoutCompleted, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.CHECKOUT_COMPLETED)

    @app.on(CheckoutFailed)
    async def cancel_checkout(event: CheckoutFailed, tx: Transaction) -> None:
        await _apply(tx, event.order_id, Signal.CHECKOUT_FAILED, CancelReason(event.reason))


async def _apply(tx: Transaction, order_id: str, signal: Signal, reason: CancelReason = CancelReason.SHOP) -> None:
    order = await tx.session.get(OrderRow, order_id, with_for_update=True)
    if order is None:
        return  # an order of another installation on the same broker
    decision = decide(order.life, signal, reason)
    order.life = decision.life
    for fact in decision.facts:
        tx.emit(tell(fact, order))


def tell(fact: Fact, order: OrderRow) -> Event:
    """Make the event that tells a fact about an order."""
    match fact:
        case Fact.PAID:
            return OrderPaid(order_id=order.id)
        case Fact.CONFIRMED:
            lines = tuple(OrderLine.model_validate(line) for line in order.lines)
            return OrderConfirmed(order_id=order.id, visitor_id=order.visitor_id, lines=lines)
        case Fact.CANCEL_REQUESTED:
            return OrderCancelRequested(order_id=order.id, reason=str(order.canceling))
        case Fact.CANCELED:
            by_saga = order.life.led_by_saga
            return OrderCanceled(order_id=order.id, reason=str(order.canceling), by_saga=by_saga)
        case Fact.SAGA_CANCEL_REQUESTED:
            return CheckoutCancelRequested(order_id=order.id)
        case Fact.REFUND_REQUESTED:
            return RefundRequested(order_id=order.id)
