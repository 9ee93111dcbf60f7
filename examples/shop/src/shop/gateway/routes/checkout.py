"""From cart to order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel

from shop.gateway import checkout
from shop.gateway.context import Ctx, Who
from shop.gateway.routes.cart import version_of
from shop.gateway.visitors import visitor_of
from shop.ports import CheckoutSession, CouponCode, Mode, Order, Saving, Wallet
from shop.reductions import Reduction
from txpatterns import new_id
from txpatterns.integrations.fastapi import idempotency_key, keyed_route
from txpatterns.integrations.idempotency import IdempotencyKeys


class Checkout(BaseModel):
    """How to pay, in the demo what the bank will do; who leads it, unless as the shop has set it; and what to save.

    A coupon and credit need a saga that leads: `orchestrated`, which they choose by themselves.
    """

    method: str = "card"
    mode: Mode | None = None
    coupon: CouponCode | None = None
    use_credit: bool = False


class Trying(BaseModel):
    """What somebody would like to save on what is in their cart."""

    coupon: CouponCode | None = None
    use_credit: bool = False


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
    wish = checkout.Wish(body.method, body.mode, Saving(coupon=body.coupon, use_credit=body.use_credit))
    order = await checkout.place(context.services, visitor.id, key, wish, version_of(if_match))
    response.headers["Location"] = f"/api/v1/orders/{order.id}"
    return order


async def try_savings(context: Ctx, visitor: Who, body: Trying) -> Reduction:
    """Say what a coupon and your credit would take off what is in your cart. Nothing is set aside or used by it."""
    cart = await context.services.carts.get(visitor.id)
    saving = Saving(coupon=body.coupon, use_credit=body.use_credit)
    return await context.services.checkouts.quote(visitor.id, cart.total, saving)


async def get_wallet(context: Ctx, visitor: Who) -> Wallet:
    """Show your credit: what you may spend, and what is set aside for orders under way."""
    return await context.services.wallets.get(visitor.id)


async def get_checkout(context: Ctx, visitor: Who, order_id: str) -> CheckoutSession:
    """Show how far a checkout is that a saga leads."""
    return await context.services.checkouts.get(visitor.id, order_id)


def routes(keys: IdempotencyKeys) -> APIRouter:
    """Make the routes; to each key of a visitor, placing an order is answered once."""
    keyed = keyed_route(keys, principal=_visitor_id, required=False, decided=lambda status: status < 400)
    router = APIRouter(prefix="/api/v1", tags=["checkout"])
    keeping = APIRouter(route_class=keyed)
    keeping.add_api_route("/checkout", start_checkout, methods=["POST"], status_code=202)
    router.include_router(keeping)
    router.add_api_route("/checkout/savings", try_savings, methods=["POST"])
    router.add_api_route("/wallet", get_wallet, methods=["GET"])
    router.add_api_route("/checkout/{order_id}", get_checkout, methods=["GET"])
    return router


def _visitor_id(request: Request) -> str:
    return visitor_of(request).id
