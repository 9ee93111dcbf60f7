"""The catalogue of events: what the services tell each other, in dotted past tense.

All events about one order carry its id as their ordering key, so that everybody hears the story in order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from shop.money import Money
from shop.reductions import Reduction
from txpatterns import Event

ORDER_TOPIC = "order-events"
PAYMENT_TOPIC = "payment-events"
CART_TOPIC = "cart-events"
CATALOG_TOPIC = "catalog-events"
TIMER_TOPIC = "order-timers"
BANK_TOPIC = "bank-webhooks"
NOTES_TOPIC = "shop-notes"
CHECKOUT_TOPIC = "checkout-outbox"
USER_TOPIC = "user-events"


class OrderLine(BaseModel):
    """One line of an order as events carry it: name and price are those the customer agreed to."""

    model_config = ConfigDict(frozen=True)

    cart_line_id: str
    sku: str
    name: str
    quantity: int
    unit_price: Money


class OrderCreated(Event, topic=ORDER_TOPIC, type="order.created", key="order_id"):
    order_id: str
    visitor_id: str
    lines: tuple[OrderLine, ...]
    total: Money
    pay_by: datetime
    method: str


class CheckoutRequested(Event, topic=ORDER_TOPIC, type="checkout.requested", key="order_id"):
    """An order is placed whose checkout a saga leads; what ``order.created`` is for one that events lead."""

    order_id: str
    visitor_id: str
    key: str  # of the checkout: the same one again makes no second session
    lines: tuple[OrderLine, ...]
    total: Money
    pay_by: datetime
    method: str
    reduction: Reduction | None = None

    @property
    def to_pay(self) -> Money:
        """What the bank is asked for."""
        return self.total if self.reduction is None else self.reduction.to_pay

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # An order without a reduction is written as it was before there were any: a saga that began then goes on.
        written: dict[str, Any] = plain(self)
        if self.reduction is None:
            written.pop("reduction", None)
        return written


class CheckoutCancelRequested(Event, topic=ORDER_TOPIC, type="checkout.cancel_requested", key="order_id"):
    """The customer calls an order off whose checkout a saga leads: the saga decides whether it is in time."""

    order_id: str


class CheckoutCompleted(Event, topic=CHECKOUT_TOPIC, type="checkout.completed", key="order_id"):
    """Set aside and paid: whoever has a part in it does it now, and nobody goes back."""

    order_id: str
    visitor_id: str
    lines: tuple[OrderLine, ...]


class CheckoutFailed(Event, topic=CHECKOUT_TOPIC, type="checkout.failed", key="order_id"):
    """The checkout was given up, and what it had done is undone."""

    order_id: str
    reason: str


class OrderPaid(Event, topic=ORDER_TOPIC, type="order.paid", key="order_id"):
    order_id: str


class OrderConfirmed(Event, topic=ORDER_TOPIC, type="order.confirmed", key="order_id"):
    order_id: str
    visitor_id: str
    lines: tuple[OrderLine, ...]


class OrderCancelRequested(Event, topic=ORDER_TOPIC, type="order.cancel_requested", key="order_id"):
    order_id: str
    reason: str


class OrderCanceled(Event, topic=ORDER_TOPIC, type="order.canceled", key="order_id"):
    order_id: str
    reason: str
    by_saga: bool = False  # which has seen to the money itself


class StockLine(BaseModel):
    """So many of one sku; lines of an order with one sku are summed."""

    model_config = ConfigDict(frozen=True)

    sku: str
    quantity: int


class StockReserved(Event, topic=ORDER_TOPIC, type="stock.reserved", key="order_id"):
    order_id: str
    lines: tuple[StockLine, ...]
    until: datetime


class StockRejected(Event, topic=ORDER_TOPIC, type="stock.rejected", key="order_id"):
    order_id: str
    short: tuple[StockLine, ...]  # what was asked for in vain, with how many there are


class StockReleased(Event, topic=ORDER_TOPIC, type="stock.released", key="order_id"):
    order_id: str
    lines: tuple[StockLine, ...]


class StockSold(Event, topic=ORDER_TOPIC, type="stock.sold", key="order_id"):
    order_id: str
    lines: tuple[StockLine, ...]


class ReservationMade(Event, topic=ORDER_TOPIC, type="reservation.made", key="order_id"):
    """A saga has had stock set aside; nobody else has anything to do then."""

    order_id: str
    lines: tuple[StockLine, ...]
    until: datetime


class ReservationRefused(Event, topic=ORDER_TOPIC, type="reservation.refused", key="order_id"):
    order_id: str
    short: tuple[StockLine, ...]


class ReservationReleased(Event, topic=ORDER_TOPIC, type="reservation.released", key="order_id"):
    order_id: str
    lines: tuple[StockLine, ...]


class CouponHeld(Event, topic=ORDER_TOPIC, type="coupon.held", key="order_id"):
    order_id: str
    code: str
    discount: Money


class CouponUsed(Event, topic=ORDER_TOPIC, type="coupon.used", key="order_id"):
    order_id: str
    code: str
    discount: Money


class CouponReleased(Event, topic=ORDER_TOPIC, type="coupon.released", key="order_id"):
    order_id: str
    code: str


class CreditHeld(Event, topic=ORDER_TOPIC, type="credit.held", key="order_id"):
    order_id: str
    amount: Money


class CreditSpent(Event, topic=ORDER_TOPIC, type="credit.spent", key="order_id"):
    order_id: str
    amount: Money


class CreditReleased(Event, topic=ORDER_TOPIC, type="credit.released", key="order_id"):
    order_id: str
    amount: Money


class PaymentSessionOpened(Event, topic=PAYMENT_TOPIC, type="payment.session_opened", key="order_id"):
    order_id: str
    payment_id: str
    charge_id: str
    amount: Money


class PaymentCaptured(Event, topic=PAYMENT_TOPIC, type="payment.captured", key="order_id"):
    order_id: str
    payment_id: str
    amount: Money
    source: str  # "webhook", or "look-up" when the bank was asked


class PaymentFailed(Event, topic=PAYMENT_TOPIC, type="payment.failed", key="order_id"):
    order_id: str
    payment_id: str


class RefundRequested(Event, topic=PAYMENT_TOPIC, type="refund.requested", key="order_id"):
    order_id: str


class PaymentRefunded(Event, topic=PAYMENT_TOPIC, type="payment.refunded", key="order_id"):
    order_id: str
    payment_id: str
    amount: Money


class WebhookRepeated(Event, topic=PAYMENT_TOPIC, type="webhook.repeated", key="order_id"):
    """A webhook changed nothing, because what it says was known; told so that the timeline can show it."""

    order_id: str
    webhook_id: str
    why: str


class UserRegistered(Event, topic=USER_TOPIC, type="user.registered", key="user_id"):
    """Somebody has an account now. Who it is, the users' service tells those who may know."""

    user_id: str


class UserTokenReuse(Event, topic=USER_TOPIC, type="user.token_reuse", key="user_id"):
    """A refresh token came a second time, so two people had it; the session it belongs to is ended."""

    user_id: str
    session_id: str


class CartCleared(Event, topic=CART_TOPIC, type="cart.cleared", key="visitor_id"):
    visitor_id: str


class CartChanged(Event, topic=CART_TOPIC, type="cart.changed", key="visitor_id"):
    """A cart is at another version: whoever remembers an older one looks anew."""

    visitor_id: str
    version: int


class ProductChanged(Event, topic=CATALOG_TOPIC, type="product.price_changed", key="sku"):
    """A product costs something else: whoever remembers an older version looks anew."""

    sku: str
    version: int
    price: Money


class CartSettled(Event, topic=CART_TOPIC, type="cart.settled", key="order_id"):
    """What an order bought has left the cart; what was added meanwhile is still there."""

    order_id: str
    visitor_id: str
    removed: int
    version: int | None = None  # of the cart that is left; none in messages that are older than it


class PaymentWindowClosed(Event, topic=TIMER_TOPIC, type="payment.window_closed", key="order_id"):
    """A durable timer: stored with the order, sent when the time to pay is over."""

    order_id: str


class SettlementDue(Event, topic=TIMER_TOPIC, type="payment.settlement_due", key="order_id"):
    """A durable timer: money was being moved when the order ended; it is time to ask the bank again."""

    order_id: str


class WebhookDue(Event, topic=BANK_TOPIC, type="bank.webhook_due", key="charge_id"):
    """The bank's own timer: it is time to post an answer to the shop."""

    charge_id: str
    webhook_id: str
    body: str


class HandlerStumbled(Event, topic=NOTES_TOPIC, type="handler.stumbled", key="order_id"):
    """A handler failed and will be tried again: told for the engineer's view of the order's page."""

    order_id: str
    message_id: str
    service: str
    handler: str
    attempt: int
    error: str
    again_after: float | None = None  # seconds, about; none when it was the last attempt


class StepTold(Event, topic=NOTES_TOPIC, type="checkout.step", key="order_id"):
    """What became of one attempt at a step of a checkout's saga, or at undoing it: told for the order's page."""

    order_id: str
    step: str
    what: str  # "begun", "done", "refused", or "failed" when nobody knows what it came to
    attempt: int
    undoing: bool = False
    error: str | None = None
