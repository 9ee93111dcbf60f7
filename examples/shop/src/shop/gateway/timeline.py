"""The order timeline: what this service heard about each order, kept in its own database."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select

from shop import events
from shop.gateway.live import Bell
from shop.gateway.models import TimelineRow
from shop.gateway.story import Entry
from txpatterns import App, Event, Transaction

HEARD: tuple[type[Event], ...] = (
    events.OrderCreated,
    events.OrderPaid,
    events.OrderConfirmed,
    events.OrderCancelRequested,
    events.OrderCanceled,
    events.StockReserved,
    events.StockRejected,
    events.StockReleased,
    events.StockSold,
    events.PaymentSessionOpened,
    events.PaymentCaptured,
    events.PaymentFailed,
    events.RefundRequested,
    events.PaymentRefunded,
    events.WebhookRepeated,
    events.CartSettled,
    events.HandlerStumbled,
    events.CheckoutRequested,
    events.CheckoutCancelRequested,
    events.CheckoutCompleted,
    events.CheckoutFailed,
    events.ReservationMade,
    events.ReservationRefused,
    events.ReservationReleased,
    events.StepTold,
    events.CouponHeld,
    events.CouponUsed,
    events.CouponReleased,
    events.CreditHeld,
    events.CreditSpent,
    events.CreditReleased,
)


def listen(app: App, bell: Bell) -> None:
    """Write down every event about an order, once, and ring the bell when it is committed."""

    async def remember(event: Event, tx: Transaction) -> None:
        message = tx.message
        payload = event.model_dump(mode="json")
        order_id = str(payload["order_id"])
        tx.session.add(
            TimelineRow(
                order_id=order_id,
                message_id=message.id,
                type=message.type,
                topic=message.topic,
                payload=payload,
                headers=dict(message.headers),
                occurred_at=message.occurred_at,
                seen_at=datetime.now(UTC),
            )
        )
        sqlalchemy_event.listen(tx.session.sync_session, "after_commit", lambda _: bell.ring(order_id), once=True)

    for heard in HEARD:
        app.on(heard)(remember)


class Timeline:
    """Reads the stories back."""

    def __init__(self, app: App, bell: Bell) -> None:
        self.app = app
        self.bell = bell

    async def entries(self, order_id: str) -> list[Entry]:
        """Give what is known of an order, in the order in which it happened.

        Their number only grows, whichever process wrote them and in whichever order they were committed: more
        entries than before are news.
        """
        query = select(TimelineRow).where(TimelineRow.order_id == order_id)
        async with self.app.session() as session:
            rows = await session.scalars(query.order_by(TimelineRow.occurred_at, TimelineRow.position))
            return [_entry(row) for row in rows]


def _entry(row: TimelineRow) -> Entry:
    return Entry(
        row.position,
        row.message_id,
        row.type,
        row.topic,
        row.occurred_at,
        row.seen_at,
        row.payload,
        row.headers,
    )
