"""The order timeline: what this service heard about each order, kept in its own database."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select

from shop import events
from shop.gateway.live import Bell
from shop.gateway.models import TimelineRow
from shop.gateway.public_ids import OrderIds
from shop.gateway.remembered import RememberedCarts
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


def listen(app: App, bell: Bell, carts: RememberedCarts, ids: OrderIds) -> None:
    """Write down every event about an order, once, and ring the bell when it is committed."""

    async def remember(event: Event, tx: Transaction) -> None:
        if isinstance(event, events.CartSettled):  # before a page can tell of it, which shows the cart too
            await carts.wrote(event.visitor_id, event.version)
        message = tx.message
        payload = event.model_dump(mode="json")
        order_id = str(payload["order_id"])
        shown = ids.hide(order_id)
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
        sqlalchemy_event.listen(tx.session.sync_session, "after_commit", lambda _: bell.ring(shown), once=True)

    for heard in HEARD:
        app.on(heard)(remember)


class Timeline:
    """Reads the stories back, of orders by the texts that are shown for their ids."""

    def __init__(self, app: App, bell: Bell, ids: OrderIds) -> None:
        self.app = app
        self.bell = bell
        self.ids = ids

    async def entries(self, order_id: str) -> list[Entry]:
        """Give what is known of an order, in the order in which it happened.

        Their number only grows, whichever process wrote them and in whichever order they were committed: more
        entries than before are news.
        """
        query = select(TimelineRow).where(TimelineRow.order_id == self.ids.reveal(order_id))
        async with self.app.session() as session:
            rows = await session.scalars(query.order_by(TimelineRow.occurred_at, TimelineRow.position))
            return [_entry(row, self.ids) for row in rows]


def _entry(row: TimelineRow, ids: OrderIds) -> Entry:
    return Entry(
        row.position,
        row.message_id,
        row.type,
        row.topic,
        row.occurred_at,
        row.seen_at,
        ids.masked(row.payload, row.order_id),
        ids.masked(row.headers, row.order_id),
    )
