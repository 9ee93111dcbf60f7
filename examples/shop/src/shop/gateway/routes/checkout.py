"""From cart to order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel

from shop.gateway import checkout
from shop.gateway.context import Ctx, Who
from shop.gateway.routes.cart import version_of
from shop.gateway.visitors import visitor_of
from shop.ports import CheckoutSession, Mode, Order
from txpatterns import new_id
from txpatterns.integrations.fastapi import idempotency_key, keyed_route
from txpatterns.integrations.idempotency import IdempotencyKeys


class Checkout(BaseModel):
    """How to pay, in the demo what the bank will do; and who leads it, where that is not what the shop has set."""

    method: str = "card"
    mode: Mode | None = None


async def start_checkout(
    context: Ctx,
    visitor: Who,
    body: Checkout,
    request: Request,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> Order:
    """Order what is in the cart. The rest happens by events; follow it at the order's address.

    With an Idempotency-Key the same request again gives the same answer and no second order; while the first one is
    not answered, `idempotency-key-in-use`. What was refused may be asked for again with the same key. With If-Match it
    is ordered only if the cart is what you saw. Of a cart that nobody changed there is one order at a time.
    """
    # The order is made in another service: once a key, also where this process dies before the answer is kept.
    key = idempotency_key(request) or new_id()
    wish = checkout.Wish(body.method, body.mode or context.mode)
    order = await checkout.place(context.services, visitor.id, key, wish, version_of(if_match))
    response.headers["Location"] = f"/api/v1/orders/{order.id}"
    return order


async def get_checkout(context: Ctx, visitor: Who, order_id: str) -> CheckoutSession:
    """Show how far a checkout is that a saga leads."""
    return await context.services.checkouts.get(visitor.id, order_id)


def routes(keys: IdempotencyKeys) -> APIRouter:
    """Make the routes; to each key of a visitor, placing an order is answered once."""
    keyed = keyed_route(keys, principal=_visitor_id, required=False, decided=lambda status: status < 400)
    router = APIRouter(prefix="/api/v1", tags=["checkout"], route_class=keyed)
    router.add_api_route("/checkout", start_checkout, methods=["POST"], status_code=202)
    router.add_api_route("/checkout/{order_id}", get_checkout, methods=["GET"])
    return router


def _visitor_id(request: Request) -> str:
    return visitor_of(request).id
