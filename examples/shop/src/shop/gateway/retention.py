"""How long the gateway keeps what it wrote down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import CursorResult, delete, func, select

from shop.gateway.models import TimelineRow
from shop.pruning import BATCH
from txpatterns import App
from txpatterns.integrations.idempotency import IdempotencyKeys

KEYS_KEPT = timedelta(days=1)
"""How long the answer to an Idempotency-Key is remembered. After that, an order is still placed once a key."""
LONGEST_REQUEST = timedelta(seconds=30)
"""After that a request with a key is taken for dead, and the next one with it is answered."""
STORIES_KEPT = timedelta(days=90)
"""How long an order's story is kept after its last event."""
STORIES_A_BATCH = BATCH // 10


def keys_of(app: App) -> IdempotencyKeys:
    """Give the answers to idempotency keys."""
    return IdempotencyKeys(app, lease=LONGEST_REQUEST, keep=KEYS_KEPT)


async def prune_keys(app: App, _now: datetime) -> int:
    """Forget answers to old idempotency keys."""
    return await keys_of(app).clean()


async def prune_stories(app: App, now: datetime) -> int:
    """Put old stories away: each as a whole, or not at all."""
    old = select(TimelineRow.order_id).group_by(TimelineRow.order_id)
    old = old.having(func.max(TimelineRow.seen_at) < now - STORIES_KEPT).limit(STORIES_A_BATCH)
    async with app.transaction() as session:
        result = await session.execute(delete(TimelineRow).where(TimelineRow.order_id.in_(old)))
    assert isinstance(result, CursorResult)
    return result.rowcount


def put_away(created_at: datetime) -> bool:
    """Say whether an order is so old that a story without events is one that is kept no longer."""
    return created_at < datetime.now(UTC) - STORIES_KEPT
