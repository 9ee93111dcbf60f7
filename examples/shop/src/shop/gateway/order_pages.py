"""The pages of orders: the list, and the timeline that goes on telling while it is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from shop.gateway.context import Context, Ctx, Who
from shop.gateway.lanes import draw
from shop.gateway.live import Reading
from shop.gateway.models import StumbleRow
from shop.gateway.pages import show
from shop.gateway.story import tell
from shop.gateway.visitors import Visitor
from shop.ports import Order

router = APIRouter(include_in_schema=False)

LISTEN = timedelta(seconds=1)
"""How long a stream waits for the bell before it looks by itself."""
BEATS = 15
"""After so many quiet looks the stream sends a comment, so that nobody in between closes it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A badge beside an event: an attempt at handling it that failed."""

    tone: str
    says: str
    detail: str


@router.get("/orders")
async def orders_page(context: Ctx, visitor: Who, after: str | None = None) -> HTMLResponse:
    """List the visitor's orders."""
    page = await context.services.orders.list(visitor.id, after, 20)
    following = f"/orders?after={page.next}" if page.next else None
    return await show(context, visitor, "orders.html", page={"items": page.items, "next": following}, here="orders")


@router.get("/orders/{order_id}")
async def order_page(context: Ctx, visitor: Who, order_id: str) -> HTMLResponse:
    """Tell an order's story so far."""
    order = await context.services.orders.get(visitor.id, order_id)
    last = await context.timeline.last(order.id)
    return await show(
        context, visitor, "order.html", here="orders", last=last, **await _values(context, visitor, order)
    )


@router.post("/orders/{order_id}/cancel")
async def call_off(context: Ctx, visitor: Who, order_id: str, csrf: Annotated[str, Form()]) -> RedirectResponse:
    """Call an order off that is not paid yet."""
    visitor.check_form(csrf)
    await context.services.orders.cancel(visitor.id, order_id)
    return RedirectResponse(f"/orders/{order_id}", status_code=303)


@router.get("/orders/{order_id}/stream")
async def stream(
    context: Ctx, visitor: Who, request: Request, order_id: str, after: Annotated[int, Query(ge=0)] = 0
) -> StreamingResponse:
    """Send the story again whenever it goes on, as server-sent events, and say when it is complete."""
    await context.services.orders.get(visitor.id, order_id)
    heard = request.headers.get("last-event-id", "")
    start = int(heard) if heard.isdecimal() else after
    return StreamingResponse(
        _follow(context, visitor, order_id, start),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _follow(context: Context, visitor: Visitor, order_id: str, seen: int) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    reading = Reading()
    complete, quiet = tell(await reading.whole(context.timeline.entries(order_id))).complete, 0
    while not context.timeline.bell.closed:
        last = await reading.whole(context.timeline.last(order_id))
        if last > seen:
            seen, quiet = last, 0
            values = await reading.whole(_read(context, visitor, order_id))
            complete = values["story"].complete
            yield _event("timeline", str(seen), context.templates.get_template("_timeline.html").render(values))
        quiet += 1
        if quiet % BEATS == 0:
            yield ": still here\n\n"
        # A complete story is listened to a little longer: the bank may repeat itself.
        if complete and quiet > BEATS:
            yield _event("end", str(seen), "complete")
            return
        await context.timeline.bell.wait(order_id, LISTEN)


async def _read(context: Context, visitor: Visitor, order_id: str) -> dict[str, Any]:
    return await _values(context, visitor, await context.services.orders.get(visitor.id, order_id))


def _event(name: str, position: str, text: str) -> str:
    data = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"id: {position}\nevent: {name}\n{data}\n"


async def _values(context: Context, visitor: Visitor, order: Order) -> dict[str, Any]:
    entries = await context.timeline.entries(order.id)
    story = tell(entries)
    stumbles = await context.timeline.stumbles(entries)
    cart = await context.services.carts.get(visitor.id)
    return {
        "order": order,
        "story": story,
        "picture": draw(entries),
        "attempts": {message: [_attempt(row) for row in rows] for message, rows in stumbles.items()},
        "token": visitor.form_token,
        "cart_count": cart.count,
    }


def _attempt(row: StumbleRow) -> Attempt:
    return Attempt("wait", f"{row.service}: attempt {row.attempt} failed", f"{row.handler}: {row.error}")
