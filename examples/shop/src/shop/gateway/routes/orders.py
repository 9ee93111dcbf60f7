"""The visitor's own orders, and their timelines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from shop.gateway.context import Ctx, Who
from shop.gateway.order_pages import story_of
from shop.gateway.render import plain
from shop.ports import Order

router = APIRouter(prefix="/api/v1/orders", tags=["orders"])


class OrderList(BaseModel):
    """A page of orders; ``next`` is the address of the following page, if there is one."""

    items: list[Order]
    next: str | None


class TimelineEntry(BaseModel):
    says: str
    type: str
    message_id: str
    occurred_at: datetime
    payload: dict[str, Any]
    headers: dict[str, str]


class TimelineView(BaseModel):
    headline: str
    entries: list[TimelineEntry]


@router.get("")
async def list_orders(
    context: Ctx,
    visitor: Who,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> OrderList:
    """List your orders, newest first."""
    page = await context.services.orders.list(visitor.id, after, limit)
    following = f"/api/v1/orders?after={page.next}&limit={limit}" if page.next else None
    return OrderList(items=page.items, next=following)


@router.get("/{order_id}")
async def get_order(context: Ctx, visitor: Who, order_id: str) -> Order:
    """Show one of your orders; somebody else's is not found."""
    return await context.services.orders.get(visitor.id, order_id)


@router.post("/{order_id}/cancel", status_code=202)
async def cancel_order(context: Ctx, visitor: Who, order_id: str) -> Order:
    """Call an order off that is not paid yet. Again is fine."""
    return await context.services.orders.cancel(visitor.id, order_id)


@router.get("/{order_id}/timeline")
async def get_timeline(context: Ctx, visitor: Who, order_id: str) -> TimelineView:
    """Tell what happened to one of your orders."""
    order = await context.services.orders.get(visitor.id, order_id)
    story = story_of(order, await context.timeline.entries(order.id))
    entries = [
        TimelineEntry(
            says=plain(step.says),
            type=step.entry.type,
            message_id=step.entry.message_id,
            occurred_at=step.entry.occurred_at,
            payload=dict(step.entry.payload),
            headers=dict(step.entry.headers),
        )
        for step in story.steps
    ]
    return TimelineView(headline=story.headline, entries=entries)
