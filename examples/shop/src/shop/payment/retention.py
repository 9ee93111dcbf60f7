"""How long the payment keeps the bank's webhooks."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import CursorResult, delete, select

from shop.payment.models import WebhookEventRow
from shop.pruning import BATCH
from txpatterns import App

WEBHOOKS_KEPT = timedelta(days=90)
"""Long after a repetition could still be signed afresh; for questions about what the bank said."""


async def prune_webhooks(app: App, now: datetime) -> int:
    """Forget what the bank told us long ago."""
    old = select(WebhookEventRow.event_id).where(WebhookEventRow.received_at < now - WEBHOOKS_KEPT).limit(BATCH)
    async with app.transaction() as session:
        result = await session.execute(delete(WebhookEventRow).where(WebhookEventRow.event_id.in_(old)))
    assert isinstance(result, CursorResult)
    return result.rowcount
