"""What the payment answers: it charges and refunds by a key, and takes the bank's webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import PaymentSessionOpened, SettlementDue, WebhookRepeated
from shop.money import Money
from shop.payment.app import ASK_AGAIN, amount_of, answer_payment
from shop.payment.domain import CHARGEABLE, Answer, PaymentStatus
from shop.payment.models import PaymentRow, WebhookEventRow
from shop.payment.webhooks import BankNews, news_of
from shop.ports import Bank, Charge, WebhookResult
from shop.problems import KINDS, Problem
from txpatterns import App, Event
from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.errors import WebhookRefused
from txpatterns.integrations.webhooks import WebhookReceiver

ENDED = {
    PaymentStatus.CAPTURED: "captured",
    PaymentStatus.REFUNDING: "refunded",
    PaymentStatus.REFUNDED: "refunded",
    PaymentStatus.FAILED: "failed",
    PaymentStatus.DROPPED: "failed",
    PaymentStatus.VOIDED: "failed",
}
"""What a payment is to whoever asked for it by a key; it is pending before."""


class PaymentsApi:
    """Payments, over their own database.

    Args:
        app: The service's App.
        bank: Who moves the money.
        secret: What the bank signs its webhooks with.
    """

    def __init__(self, app: App, bank: Bank, secret: str) -> None:
        self.app = app
        self.bank = bank
        self.webhooks = WebhookReceiver(app, "mock", secret)

    async def charge(self, key: str, order_id: str, amount: Money, method: str, pay_by: datetime) -> Charge:
        """Ask the bank for an order's money; whether it pays, it says later. The same key again asks for nothing more.

        What was refunded under this key before is charged no more: a wish that comes late is answered ``failed``.

        Raises:
            Problem: ``idempotency-key-reused`` when the key came with something else, ``exists`` when the order has a
                payment under another key, or ``invalid`` for an amount or a method that there is not.
        """
        if amount.minor <= 0:
            raise Problem("invalid", "An amount to charge is above zero.")
        row = await self._expect(key, order_id, amount, method, pay_by)
        if (row.order_id, amount_of(row), row.method) != (order_id, amount, method):
            raise Problem("idempotency-key-reused", "Something else was asked for under this key.")
        if row.status != PaymentStatus.WAITING:
            return _view(row)
        # Written down before the bank is asked: its answer may be here before our own note of the charge is.
        left = (pay_by - datetime.now(UTC)).total_seconds()
        charge = await self.bank.charge(row.id, amount, method, max(left, 0.0))
        async with self.app.transaction() as session:
            row = await session.get_one(PaymentRow, row.id, with_for_update=True)
            self._open(session, row, charge)
            return _view(row)

    async def find(self, key: str) -> Charge | None:
        """Say what has become of a key, as the bank knows it now; none: nothing was charged under it."""
        async with self.app.transaction() as session:
            row = await session.get(PaymentRow, _id_of(key), with_for_update=True)
            charge = None if row is None else await self.bank.find(row.id)
            if row is None or charge is None:
                return None if row is None or row.status == PaymentStatus.WAITING else _view(row)
            self._open(session, row, charge)
            if charge.status in ("captured", "failed") and row.status == PaymentStatus.OPEN:
                answer = Answer.CAPTURED if charge.status == "captured" else Answer.FAILED
                _, told = answer_payment(row, answer, charge, "look-up")
                for event in told:
                    self._tell(session, row, event)
            return _view(row)

    async def refund(self, key: str, order_id: str, amount: Money, method: str) -> Charge:
        """See that no money stays charged under a key, whatever has become of it. Again changes nothing.

        What is captured goes back. What the bank is still moving cannot be stopped: it is asked again until it is
        known, and goes back then. What was never charged never will be.
        """
        row = await self._expect(key, order_id, amount, method, datetime.now(UTC))
        async with self.app.transaction() as session:
            row = await session.get_one(PaymentRow, row.id, with_for_update=True)
            if row.status in CHARGEABLE and row.status != PaymentStatus.VOIDED:
                charge = await self.bank.stop(row.id, amount)
                if charge.status == "captured":
                    _, told = answer_payment(row, Answer.CAPTURED, charge, "look-up")
                    for event in told:
                        self._tell(session, row, event)
                else:
                    row.status, row.charge_id = PaymentStatus.VOIDED.value, charge.id
                if charge.status == "pending":
                    self._tell(session, row, SettlementDue(order_id=row.order_id), after=ASK_AGAIN)
            if row.status == PaymentStatus.CAPTURED:
                await self.bank.refund(f"refund-{row.id}", str(row.charge_id))
                row.status = PaymentStatus.REFUNDING.value
            return _view(row)

    async def _expect(self, key: str, order_id: str, amount: Money, method: str, pay_by: datetime) -> PaymentRow:
        """Give the payment of a key; a new one waits, with nothing charged."""
        row = PaymentRow(
            id=_id_of(key),
            order_id=order_id,
            status=PaymentStatus.WAITING.value,
            amount_minor=amount.minor,
            currency=amount.currency,
            method=method,
            charge_id=None,
            correlation_id=current_lineage().get(CORRELATION_ID, order_id),
            pay_by=pay_by,
            created_at=datetime.now(UTC),
        )
        try:
            async with self.app.transaction() as session:
                known = await session.get(PaymentRow, row.id)
                if known is not None:
                    return known
                session.add(row)
        except IntegrityError:
            async with self.app.session() as session:
                known = await session.get(PaymentRow, row.id)
                if known is None:
                    raise Problem("exists", "This order is paid for under another key.") from None
                return known
        return row

    def _open(self, session: AsyncSession, row: PaymentRow, charge: Charge) -> None:
        """Note that the bank has been asked, where that is news."""
        if row.status == PaymentStatus.WAITING:
            row.status, row.charge_id = PaymentStatus.OPEN.value, charge.id
            amount = amount_of(row)
            opened = PaymentSessionOpened(order_id=row.order_id, payment_id=row.id, charge_id=charge.id, amount=amount)
            self._tell(session, row, opened)

    async def receive_webhook(self, body: bytes, headers: dict[str, str]) -> WebhookResult:
        """Take a webhook: check it, write it down once, and say what it did. What follows happens by events.

        The same event again, at once or days later, is answered and changes nothing.

        Raises:
            Problem: ``signature-invalid``, ``bad-request``, or ``not-found`` for a payment that is not ours.
        """
        try:
            webhook = self.webhooks.verify(body, headers)
        except WebhookRefused as error:
            raise Problem("signature-invalid", KINDS["signature-invalid"].help) from error
        news = news_of(webhook)
        async with self.app.transaction() as session:
            payment = await session.get(PaymentRow, news.reference, with_for_update=True)
            if payment is None:
                raise Problem("not-found", "The webhook names a payment that is not ours.")
            if not await self.webhooks.aclaim(session, webhook):
                why = f"event {news.id} was counted before"
                self._tell_repeated(session, payment, news, why)
                return WebhookResult(webhook_id=news.id, first=False, outcome=why)
            verdict, told = answer_payment(payment, news.type, news.charge, "webhook")
            for event in told:
                self._tell(session, payment, event)
            if not verdict.tell:
                self._tell_repeated(session, payment, news, verdict.why)
            session.add(
                WebhookEventRow(
                    event_id=news.id,
                    payment_id=payment.id,
                    kind=news.type.value,
                    body=body.decode(),
                    outcome=verdict.why,
                    received_at=datetime.now(UTC),
                )
            )
            return WebhookResult(webhook_id=news.id, first=True, outcome=verdict.why)

    def _tell_repeated(self, session: AsyncSession, payment: PaymentRow, news: BankNews, why: str) -> None:
        self._tell(session, payment, WebhookRepeated(order_id=payment.order_id, webhook_id=news.id, why=why))

    def _tell(self, session: AsyncSession, payment: PaymentRow, event: Event, after: timedelta | None = None) -> None:
        self.app.outbox.add(session, event, headers={CORRELATION_ID: payment.correlation_id}, deliver_after=after)


def _id_of(key: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"payment:{key}"))


def _view(row: PaymentRow) -> Charge:
    status = ENDED.get(PaymentStatus(row.status), "pending")
    return Charge(id=row.charge_id or row.id, status=status, amount=amount_of(row))
