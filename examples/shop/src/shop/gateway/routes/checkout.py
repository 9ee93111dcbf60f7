"""From cart to order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel

from shop.gateway import checkout
from shop.gateway.context import Ctx, Who
from shop.gateway.routes.cart import version_of
from shop.ports import CheckoutSession, Mode, Order
from txpatterns import new_id

router = APIRouter(prefix="/api/v1", tags=["checkout"])


class Checkout(BaseModel):
    """How to pay, in the demo what the bank will do; and who leads it, where that is not what the shop has set."""

    method: str = "card"
    mode: Mode | None = None


@router.post("/checkout", status_code=202)
async def start_checkout(
    context: Ctx,
    visitor: Who,
    body: Checkout,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    if_match: Annotated[str | None, Header()] = None,
) -> Order:
    """Order what is in the cart. The rest happens by events; follow it at the order's address.

    With an Idempotency-Key the same request again gives the same answer and no second order. With If-Match it is
    ordered only if the cart is what you saw. Of a cart that nobody changed there is one order at a time.
    """
    key = idempotency_key or new_id()

    async def work() -> str:
        wish = checkout.Wish(body.method, body.mode or context.mode)
        placed = await checkout.place(context.services, visitor.id, key, wish, version_of(if_match))
        return placed.model_dump_json()

    asked = body.model_dump(mode="json", exclude_none=True)
    order = Order.model_validate_json(await context.keys.once(visitor.id, key, asked, work))
    response.headers["Location"] = f"/api/v1/orders/{order.id}"
    return order


@router.get("/checkout/{order_id}")
async def get_checkout(context: Ctx, visitor: Who, order_id: str) -> CheckoutSession:
    """Show how far a checkout is that a saga leads."""
    return await context.services.checkouts.get(visitor.id, order_id)
