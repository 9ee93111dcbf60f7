"""How long the gateway keeps what it wrote down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import CursorResult, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from shop.gateway.models import IdempotencyRow, TimelineRow
from shop.pruning import BATCH

KEYS_KEPT = timedelta(days=1)
"""How long the answer to an Idempotency-Key is remembered. After that, an order is still placed once a key."""
STORIES_KEPT = timedelta(days=90)
"""How long an order's story is kept after its last event."""
STORIES_A_BATCH = BATCH // 10


async def prune_keys(session: AsyncSession, now: datetime) -> int:
    """Forget answers to old idempotency keys."""
    name = tuple_(IdempotencyRow.visitor_id, IdempotencyRow.key)
    old = select(IdempotencyRow.visitor_id, IdempotencyRow.key).where(IdempotencyRow.created_at < now - KEYS_KEPT)
    result = await session.execute(delete(IdempotencyRow).where(name.in_(old.limit(BATCH))))
    assert isinstance(result, CursorResult)
    return result.rowcount


async def prune_stories(session: AsyncSession, now: datetime) -> int:
    """Put old stories away: each as a whole, or not at all."""
    old = select(TimelineRow.order_id).group_by(TimelineRow.order_id)
    old = old.having(func.max(TimelineRow.seen_at) < now - STORIES_KEPT).limit(STORIES_A_BATCH)
    result = await session.execute(delete(TimelineRow).where(TimelineRow.order_id.in_(old)))
    assert isinstance(result, CursorResult)
    return result.rowcount


def put_away(created_at: datetime) -> bool:
    """Say whether an order is so old that a story without events is one that is kept no longer."""
    return created_at < datetime.now(UTC) - STORIES_KEPT
