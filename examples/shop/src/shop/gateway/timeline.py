"""The order timeline: what this service heard about each order, kept in its own database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import func, select

from shop import events
from shop.gateway.live import Bell
from shop.gateway.models import StumbleRow, TimelineRow
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

    @app.on(events.HandlerStumbled)
    async def remember_stumble(event: events.HandlerStumbled, tx: Transaction) -> None:
        tx.session.add(
            StumbleRow(
                message_id=event.message_id,
                service=event.service,
                handler=event.handler,
                attempt=event.attempt,
                error=event.error,
                at=tx.message.occurred_at,
            )
        )


class Timeline:
    """Reads the stories back."""

    def __init__(self, app: App, bell: Bell) -> None:
        self.app = app
        self.bell = bell

    async def entries(self, order_id: str) -> list[Entry]:
        """Give what is known of an order, in the order in which it happened."""
        query = select(TimelineRow).where(TimelineRow.order_id == order_id)
        async with self.app.session() as session:
            rows = await session.scalars(query.order_by(TimelineRow.occurred_at, TimelineRow.position))
            return [_entry(row) for row in rows]

    async def last(self, order_id: str) -> int:
        """Give the position of the latest news of an order, zero before the first."""
        query = select(func.max(TimelineRow.position)).where(TimelineRow.order_id == order_id)
        async with self.app.session() as session:
            return await session.scalar(query) or 0

    async def stumbles(self, entries: Sequence[Entry]) -> Mapping[str, list[StumbleRow]]:
        """Give the attempts that failed on the way, by message id."""
        found: defaultdict[str, list[StumbleRow]] = defaultdict(list)
        query = select(StumbleRow).where(StumbleRow.message_id.in_([entry.message_id for entry in entries]))
        async with self.app.session() as session:
            for row in await session.scalars(query.order_by(StumbleRow.id)):
                found[row.message_id].append(row)
        return found


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
