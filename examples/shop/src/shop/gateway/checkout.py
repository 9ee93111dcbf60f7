"""From a cart to an order, for the API and for the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

from shop.gateway.context import Services
from shop.ports import Cart, NewOrder, Order
from shop.problems import Problem


@dataclass(frozen=True, slots=True)
class DemoMethod:
    """A way to pay in the demo: what the bank will do, in words."""

    value: str
    title: str
    what: str


METHODS = (
    DemoMethod("card", "A card like any other", "Accepted nineteen times in twenty."),
    DemoMethod("succeed", "Accepted", "The bank says yes within a second or two."),
    DemoMethod("fail", "Declined", "The bank says no, and everything goes back."),
    DemoMethod("twice", "The answer comes twice", "The same webhook two times. You pay once."),
    DemoMethod("reordered", "In the wrong order", "Declined, then accepted; the news arrive the other way round."),
    DemoMethod("late", "The answer comes too late", "Yes, but after the time to pay. You get your money back."),
    DemoMethod("lost", "The answer gets lost", "The bank takes the money, but its webhook never arrives."),
    DemoMethod("silent", "No answer at all", "The bank takes nothing and says nothing. The time runs out."),
)


def checkout_id(visitor_id: str, key: str) -> str:
    """Make the checkout's id from the visitor and their idempotency key: the same two give the same order."""
    return str(uuid5(NAMESPACE_URL, f"checkout:{visitor_id}:{key}"))


async def place(services: Services, visitor_id: str, key: str, method: str) -> Order:
    """Order what is in the visitor's cart.

    Raises:
        Problem: ``invalid`` for an unknown method, ``cart-empty``, or ``price-changed`` with both prices.
    """
    if method not in {known.value for known in METHODS}:
        raise Problem("invalid", f"There is no way to pay called {method!r}.")
    cart = await services.carts.get(visitor_id)
    await _check_prices(services, cart)
    return await services.orders.place(
        NewOrder(checkout_id=checkout_id(visitor_id, key), visitor_id=visitor_id, lines=cart.lines, method=method)
    )


async def _check_prices(services: Services, cart: Cart) -> None:
    products = {p.sku: p for p in await services.catalog.products_by_sku([line.sku for line in cart.lines])}
    changed = [
        {
            "sku": line.sku,
            "in_cart": line.unit_price.model_dump(mode="json"),
            "now": products[line.sku].price.model_dump(mode="json"),
        }
        for line in cart.lines
        if line.sku in products and products[line.sku].price != line.unit_price
    ]
    if changed:
        raise Problem("price-changed", "A price has changed since you put the thing in.", prices=changed)
