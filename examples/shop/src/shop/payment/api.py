"""What the payment answers: it takes the bank's webhooks."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import WebhookRepeated
from shop.payment.app import answer_payment
from shop.payment.models import PaymentRow, WebhookEventRow
from shop.payment.webhooks import BankNews, verify
from shop.ports import WebhookResult
from shop.problems import Problem
from txpatterns import App, Event
from txpatterns.correlation import CORRELATION_ID

CONSUMER = "webhook:mock"


class PaymentsApi:
    """Payments, over their own database.

    Args:
        app: The service's App.
        secret: What the bank signs its webhooks with.
    """

    def __init__(self, app: App, secret: str) -> None:
        self.app = app
        self.secret = secret

    async def receive_webhook(self, body: bytes, headers: dict[str, str]) -> WebhookResult:
        """Take a webhook: check it, write it down once, and say what it did. What follows happens by events.

        The same event again, at once or days later, is answered and changes nothing.

        Raises:
            Problem: ``signature-invalid``, ``bad-request``, or ``not-found`` for a payment that is not ours.
        """
        news = verify(self.secret, body, headers)
        async with self.app.transaction() as session:
            payment = await session.get(PaymentRow, news.reference, with_for_update=True)
            if payment is None:
                raise Problem("not-found", "The webhook names a payment that is not ours.")
            if not await self.app.inbox.aclaim(session, CONSUMER, news.id):
                why = f"event {news.id} was counted before"
                self._tell_repeated(session, payment, news, why)
                return WebhookResult(webhook_id=news.id, first=False, outcome=why)
            verdict, told = answer_payment(payment, news.answer, news.charge, "webhook")
            for event in told:
                self._tell(session, payment, event)
            if not verdict.tell:
                self._tell_repeated(session, payment, news, verdict.why)
            session.add(
                WebhookEventRow(
                    event_id=news.id,
                    payment_id=payment.id,
                    kind=news.type,
                    body=body.decode(),
                    outcome=verdict.why,
                    received_at=datetime.now(UTC),
                )
            )
            return WebhookResult(webhook_id=news.id, first=True, outcome=verdict.why)

    def _tell_repeated(self, session: AsyncSession, payment: PaymentRow, news: BankNews, why: str) -> None:
        self._tell(session, payment, WebhookRepeated(order_id=payment.order_id, webhook_id=news.id, why=why))

    def _tell(self, session: AsyncSession, payment: PaymentRow, event: Event) -> None:
        self.app.outbox.add(session, event, headers={CORRELATION_ID: payment.correlation_id})
