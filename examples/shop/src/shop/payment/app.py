"""What the payment listens to: ask the bank once the stock is set aside, give back what came too late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import (
    OrderCanceled,
    OrderCreated,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentSessionOpened,
    RefundRequested,
    SettlementDue,
    StockReserved,
)
from shop.money import Money
from shop.payment.domain import CHARGEABLE, Answer, PaymentStatus, Verdict, judge
from shop.payment.models import PaymentRow
from shop.ports import Bank, Charge
from txpatterns import App, Event, Transaction, new_id
from txpatterns.correlation import correlation_id_of

ASK_AGAIN = timedelta(seconds=2)


class PaymentUnknown(Exception):
    """An order's later event came before its first; the message is tried again."""


def listen(app: App, bank: Bank) -> None:
    """Connect the payment to the life of orders.

    The bank is called inside the handler, with a key of its own: a handler that runs twice finds the charge that
    the first run made.
    """

    @app.on(OrderCreated)
    async def expect_payment(event: OrderCreated, tx: Transaction) -> None:
        tx.session.add(
            PaymentRow(
                id=new_id(),
                order_id=event.order_id,
                status=PaymentStatus.WAITING.value,
                amount_minor=event.total.minor,
                currency=event.total.currency,
                method=event.method,
                charge_id=None,
                correlation_id=correlation_id_of(tx.message),
                pay_by=event.pay_by,
                created_at=datetime.now(UTC),
            )
        )

    @app.on(StockReserved)
    async def open_session(event: StockReserved, tx: Transaction) -> None:
        row = await find_payment(tx.session, event.order_id)
        if row.status != PaymentStatus.WAITING:
            return
        left = (row.pay_by - datetime.now(UTC)).total_seconds()
        charge = await bank.charge(row.id, amount_of(row), row.method, max(left, 0.0))
        row.status, row.charge_id = PaymentStatus.OPEN.value, charge.id
        tx.emit(
            PaymentSessionOpened(order_id=row.order_id, payment_id=row.id, charge_id=charge.id, amount=amount_of(row))
        )

    @app.on(OrderCanceled)
    async def settle_with_bank(event: OrderCanceled, tx: Transaction) -> None:
        if not event.by_saga:
            await _settle(tx, bank, event.order_id)

    @app.on(SettlementDue)
    async def settle_again(event: SettlementDue, tx: Transaction) -> None:
        await _settle(tx, bank, event.order_id)

    @app.on(RefundRequested)
    async def refund(event: RefundRequested, tx: Transaction) -> None:
        row = await find_payment(tx.session, event.order_id)
        if row.status == PaymentStatus.CAPTURED:
            charge_id = row.charge_id or (await bank.stop(row.id, amount_of(row))).id
            await bank.refund(f"refund-{row.id}", charge_id)
            row.status = PaymentStatus.REFUNDING.value


async def _settle(tx: Transaction, bank: Bank, order_id: str) -> None:
    """See that nothing is charged for an order that has ended, or that the charge becomes known.

    Only the bank knows whether money moved: an answer may have been lost, and so may our own note that we asked, with
    a process that died behind the call. Stopped by its key, a charge can neither be hidden nor come later.
    """
    row = await find_payment(tx.session, order_id)
    if row.status not in CHARGEABLE:
        return
    charge = await bank.stop(row.id, amount_of(row))
    if charge.status == "captured":
        _, told = answer_payment(row, Answer.CAPTURED, charge, "look-up")
        for event in told:
            tx.emit(event)
    elif charge.status == "pending":
        tx.emit(SettlementDue(order_id=order_id), deliver_after=ASK_AGAIN)
    elif row.status not in (PaymentStatus.FAILED, PaymentStatus.VOIDED):
        row.status = PaymentStatus.DROPPED.value


def answer_payment(row: PaymentRow, answer: Answer, charge: Charge, source: str) -> tuple[Verdict, list[Event]]:
    """Apply an answer of the bank to a payment; gives the verdict, and the events that tell of it."""
    amount = charge.amount
    before = PaymentStatus(row.status)
    verdict = judge(before, answer, amount == amount_of(row))
    row.status, row.charge_id = verdict.status.value, charge.id
    if not verdict.tell:
        return verdict, []
    match answer:
        case Answer.CAPTURED:
            told: list[Event] = [
                PaymentCaptured(order_id=row.order_id, payment_id=row.id, amount=amount, source=source)
            ]
            if before is PaymentStatus.VOIDED:
                told.append(RefundRequested(order_id=row.order_id))
            return verdict, told
        case Answer.FAILED:
            return verdict, [PaymentFailed(order_id=row.order_id, payment_id=row.id)]
        case Answer.REFUNDED:
            return verdict, [PaymentRefunded(order_id=row.order_id, payment_id=row.id, amount=amount)]


async def find_payment(session: AsyncSession, order_id: str) -> PaymentRow:
    """Find and lock an order's payment.

    Raises:
        PaymentUnknown: there is none yet.
    """
    row = await session.scalar(select(PaymentRow).where(PaymentRow.order_id == order_id).with_for_update())
    if row is None:
        raise PaymentUnknown(f"no payment is known for order {order_id} yet")
    return row


def amount_of(row: PaymentRow) -> Money:
    """Give what is to be paid."""
    return Money.of_minor(row.amount_minor, row.currency)
