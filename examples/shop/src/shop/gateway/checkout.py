"""From a cart to an order, for the API and for the page alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from shop.gateway.context import Services
from shop.ports import Cart, Mode, Order, Saving
from shop.problems import Problem
from txpatterns import new_id

LONGEST_KEY = 80
LONGEST_VERSION = 10
LOOKED_AT = 100
"""How many products are looked at for one that is on the shelf."""


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
    DemoMethod("twice", "The answer comes twice", "The bank says yes two times. You pay once."),
    DemoMethod("reordered", "In the wrong order", "First no, then yes; the news arrives the other way round."),
    DemoMethod("late", "The answer comes too late", "Yes, but after the time to pay. You get your money back."),
    DemoMethod("lost", "The answer gets lost", "The bank takes the money, and its yes never arrives."),
    DemoMethod("silent", "No answer at all", "The bank takes nothing and says nothing. The time runs out."),
)


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """Who may lead a checkout, in words."""

    value: Mode
    title: str
    what: str


MODES = (
    ModeChoice(
        Mode.CHOREOGRAPHED, "Nobody in particular", "Each service does its part when it hears of the last one's."
    ),
    ModeChoice(
        Mode.ORCHESTRATED, "One service leads", "A saga asks each in turn, and undoes what was done if one says no."
    ),
)


def key_for(cart: Cart) -> str:
    """Make the key of a checkout page. It carries the version of the cart that the page shows."""
    return f"{cart.version}.{new_id()}"


def version_in(key: str) -> int:
    """Read the cart's version from the key of a checkout page.

    Raises:
        Problem: ``invalid`` for a key that no page of ours carries.
    """
    version, dot, _ = key.partition(".")
    if not (dot and version.isdecimal() and len(version) < LONGEST_VERSION and len(key) <= LONGEST_KEY):
        raise Problem("invalid", "This is not the form of a checkout page. Load the page again.")
    return int(version)


@dataclass(frozen=True, slots=True)
class Wish:
    """How somebody wants to check out: what the bank is to do, who leads it, and what is to be saved."""

    method: str
    mode: Mode | None
    saving: Saving = field(default_factory=Saving)


async def place(services: Services, visitor_id: str, key: str, wish: Wish, version: int | None) -> Order:
    """Order what is in the visitor's cart, which must be what they saw.

    Args:
        services: The services that answer.
        visitor_id: Who orders.
        key: The same key gives the same order.
        wish: How to pay, who leads the checkout, and what is to be saved.
        version: Of the cart that the visitor saw; none takes the cart as it is now.

    Raises:
        Problem: ``invalid`` for an unknown method, ``cart-empty``, ``cart-ordered`` with the order that was made of
            this cart already, ``stale-version`` when the cart is no longer at that version, ``price-changed`` with
            both prices, or ``coupon-refused``.
    """
    try:
        return await services.checkouts.place(visitor_id, key, wish.method, wish.mode, version, wish.saving)
    except Problem:
        await services.carts.forget(visitor_id)  # what is remembered may be why
        raise


async def place_to_fail(services: Services, visitor_id: str) -> Order:
    """Order what is in the cart, or else one thing that is on the shelf, with a bank that declines: a saga undoes it.

    Raises:
        Problem: as ``place`` does; ``conflict`` when the cart is empty, and so are the shelves.
    """
    cart = await services.carts.get(visitor_id)
    if not cart.lines:
        page = await services.catalog.products(None, None, None, LOOKED_AT)
        levels = await services.inventory.levels([product.sku for product in page.items])
        there = {level.sku for level in levels if level.available}
        found = next((product for product in page.items if product.sku in there), None)
        if found is None:
            raise Problem("conflict", "Everything is sold out.")
        await services.carts.add(visitor_id, found.sku, 1, None)
    return await place(services, visitor_id, new_id(), Wish("fail", Mode.ORCHESTRATED), None)
