"""The pages of orders: the list, and the timeline that goes on telling while it is open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from shop.backends import if_there
from shop.gateway.context import Context, Ctx, Who
from shop.gateway.course import course_of
from shop.gateway.lanes import draw
from shop.gateway.live import Reading
from shop.gateway.pages import ALREADY, show
from shop.gateway.retention import put_away
from shop.gateway.story import Entry, Story, tell, tell_no_longer
from shop.gateway.visitors import Visitor
from shop.ports import Order
from shop.problems import Problem

router = APIRouter(include_in_schema=False)

NOTHING_CHARGED = "This cart was ordered already. This is that order; pressing the button again has charged nothing."
LISTEN = timedelta(seconds=1)
"""How long a stream waits for the bell before it looks by itself."""
BEATS = 15
"""After so many quiet looks the stream sends a comment, so that nobody in between closes it."""


@router.get("/orders")
async def orders_page(context: Ctx, visitor: Who, after: str | None = None) -> HTMLResponse:
    """List the visitor's orders."""
    page = await context.services.orders.list(visitor.id, after, 20)
    following = f"/orders?after={page.next}" if page.next else None
    return await show(context, visitor, "orders.html", page={"items": page.items, "next": following}, here="orders")


@router.get("/orders/{order_id}")
async def order_page(context: Ctx, visitor: Who, order_id: str, request: Request) -> HTMLResponse:
    """Tell an order's story so far; once, to who pressed the button of a cart that was ordered before, also that."""
    order = await context.services.orders.get(visitor.id, order_id)
    entries = await context.timeline.entries(order.id)
    values = await _values(context, visitor, order, entries)
    notice = NOTHING_CHARGED if ALREADY in request.cookies else None
    page = await show(context, visitor, "order.html", here="orders", known=len(entries), notice=notice, **values)
    if notice is not None:
        page.delete_cookie(ALREADY, path=request.url.path)
    return page


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
    order = await context.services.orders.get(visitor.id, order_id)
    old = put_away(order.created_at) and not await context.timeline.entries(order_id)
    heard = request.headers.get("last-event-id", "")
    start = int(heard) if heard.isdecimal() else after
    return StreamingResponse(
        _nothing_more() if old else _follow(context, visitor, order_id, start),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _nothing_more() -> AsyncIterator[str]:
    """End the stream of a story that has been put away."""
    yield _event("end", "0", "complete")


async def _follow(context: Context, visitor: Visitor, order_id: str, seen: int) -> AsyncIterator[str]:
    """Tell whenever there are more entries than the page has seen."""
    yield "retry: 1000\n\n"
    reading, bell, quiet = Reading(), context.timeline.bell, 0
    with bell.listening(order_id) as ear:
        while not bell.closed:
            entries = await reading.whole(context.timeline.entries(order_id))
            if len(entries) > seen:
                try:
                    order = await reading.whole(context.services.orders.get(visitor.id, order_id))
                    values = await reading.whole(_values(context, visitor, order, entries))
                except Problem:
                    return  # a service does not answer at this moment: the browser comes again, and we look again
                seen, quiet = len(entries), 0
                yield _event("timeline", str(seen), context.templates.get_template("_timeline.html").render(values))
            quiet += 1
            if quiet % BEATS == 0:
                yield ": still here\n\n"
            # A complete story is listened to a little longer: the bank may repeat itself.
            if quiet > BEATS and tell(entries).complete:
                yield _event("end", str(seen), "complete")
                return
            await ear.wait(LISTEN)


def _event(name: str, position: str, text: str) -> str:
    data = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"id: {position}\nevent: {name}\n{data}\n"


def story_of(order: Order, entries: Sequence[Entry]) -> Story:
    """Tell an order's story, or how it ended when it is so old that its story has been put away."""
    if not entries and put_away(order.created_at):
        return tell_no_longer(order.status)
    return tell(entries)


async def _values(context: Context, visitor: Visitor, order: Order, entries: Sequence[Entry]) -> dict[str, Any]:
    cart = await if_there(context.services.carts.get(visitor.id))
    return {
        "order": order,
        "story": story_of(order, entries),
        "picture": draw(entries),
        "course": course_of(entries),
        "token": visitor.form_token,
        "cart_count": cart.count if cart else 0,
    }
