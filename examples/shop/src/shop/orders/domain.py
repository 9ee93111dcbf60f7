"""The life of an order, as a pure function from state and signal to state and facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Status(StrEnum):
    PENDING = "PENDING"
    PAID = "PAID"
    CONFIRMED = "CONFIRMED"
    CANCELED = "CANCELED"


class CancelReason(StrEnum):
    OUT_OF_STOCK = "out_of_stock"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_WINDOW = "payment_window"
    CUSTOMER = "customer"
    COUPON = "coupon"
    CREDIT = "credit"
    SHOP = "shop"


class Signal(StrEnum):
    """What may happen to an order."""

    STOCK_REJECTED = "stock_rejected"
    PAYMENT_CAPTURED = "payment_captured"
    PAYMENT_FAILED = "payment_failed"
    WINDOW_CLOSED = "window_closed"
    CANCEL_ASKED = "cancel_asked"
    PAYMENT_CHECKED = "payment_checked"
    STOCK_RELEASED = "stock_released"
    CHECKOUT_COMPLETED = "checkout_completed"
    CHECKOUT_FAILED = "checkout_failed"


class Fact(StrEnum):
    """What an order tells the rest of the shop, in the transaction that changed it."""

    PAID = "paid"
    CONFIRMED = "confirmed"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELED = "canceled"
    REFUND_REQUESTED = "refund_requested"
    SAGA_CANCEL_REQUESTED = "saga_cancel_requested"


@dataclass(frozen=True, slots=True)
class Life:
    """Where an order stands. ``canceling`` is set from the request to cancel until its stock is back.

    Where a saga leads the checkout, it alone decides, and the order only hears how it ended.
    """

    status: Status = Status.PENDING
    canceling: CancelReason | None = None
    led_by_saga: bool = False

    @property
    def open(self) -> bool:
        """Whether it may still become paid."""
        return self.status is Status.PENDING and self.canceling is None


@dataclass(frozen=True, slots=True)
class Decision:
    life: Life
    facts: tuple[Fact, ...] = ()


REASONS = {
    Signal.PAYMENT_FAILED: CancelReason.PAYMENT_FAILED,
    Signal.WINDOW_CLOSED: CancelReason.PAYMENT_WINDOW,
    Signal.CANCEL_ASKED: CancelReason.CUSTOMER,
}


def decide(life: Life, signal: Signal, reason: CancelReason = CancelReason.SHOP) -> Decision:
    """Say what a signal does to an order. A signal that comes too late or again changes nothing.

    The one exception is money: a capture that arrives when the order is being canceled, or is canceled, leads to a
    refund, because somebody has paid for nothing.

    Args:
        life: Where the order stands.
        signal: What has happened.
        reason: Why a saga has given its checkout up.
    """
    if life.led_by_saga:
        return _decide_led(life, signal, reason)
    match signal:
        case Signal.PAYMENT_CAPTURED if life.open:
            return Decision(Life(Status.PAID), (Fact.PAID,))
        case Signal.PAYMENT_CAPTURED if life.status in (Status.PENDING, Status.CANCELED):
            return Decision(life, (Fact.REFUND_REQUESTED,))
        case Signal.PAYMENT_CHECKED if life.status is Status.PAID:
            return Decision(Life(Status.CONFIRMED), (Fact.CONFIRMED,))
        case Signal.STOCK_REJECTED if life.status is Status.PENDING:
            reason = life.canceling or CancelReason.OUT_OF_STOCK
            return Decision(Life(Status.CANCELED, reason), (Fact.CANCELED,))
        case Signal.STOCK_RELEASED if life.status is Status.PENDING and life.canceling:
            return Decision(replace(life, status=Status.CANCELED), (Fact.CANCELED,))
        case Signal.WINDOW_CLOSED | Signal.PAYMENT_FAILED | Signal.CANCEL_ASKED if life.open:
            return Decision(replace(life, canceling=REASONS[signal]), (Fact.CANCEL_REQUESTED,))
        case _:
            return Decision(life)


def _decide_led(life: Life, signal: Signal, reason: CancelReason) -> Decision:
    """Say what a signal does to an order whose checkout a saga leads. Money is the saga's, too."""
    match signal:
        case Signal.CHECKOUT_COMPLETED if life.status is Status.PENDING:
            return Decision(replace(life, status=Status.CONFIRMED, canceling=None), (Fact.CONFIRMED,))
        case Signal.CHECKOUT_FAILED if life.status is Status.PENDING:
            return Decision(replace(life, status=Status.CANCELED, canceling=reason), (Fact.CANCELED,))
        case Signal.CANCEL_ASKED if life.open:
            return Decision(replace(life, canceling=CancelReason.CUSTOMER), (Fact.SAGA_CANCEL_REQUESTED,))
        case _:
            return Decision(life)
