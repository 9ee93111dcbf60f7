"""From a cart to an order: what the visitor saw is what is ordered, once."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from shop.checkout.saving import Savings
from shop.money import total
from shop.ports import Carts, Catalog, Mode, NewOrder, Order, Orders, Saving
from shop.prices import price_changes, products_in
from shop.problems import Problem


def checkout_id(visitor_id: str, key: str) -> str:
    """Make the checkout's id from the visitor and their idempotency key: the same two give the same order."""
    return str(uuid5(NAMESPACE_URL, f"checkout:{visitor_id}:{key}"))


@dataclass(frozen=True, slots=True)
class Payment:
    """How somebody wants to pay: the way, who leads the checkout, and what they want to save."""

    method: str
    mode: Mode | None = None
    saving: Saving = field(default_factory=Saving)


@dataclass(frozen=True, slots=True)
class Placing:
    """Who is asked when an order is placed, the ways to pay, and who leads a checkout that names nobody."""

    carts: Carts
    catalog: Catalog
    orders: Orders
    savings: Savings
    methods: AbstractSet[str]
    usual: Mode

    async def place(self, visitor_id: str, key: str, payment: Payment, version: int | None) -> Order:
        """Order what is in the visitor's cart, which must be what they saw.

        Args:
            visitor_id: Who orders.
            key: The same key gives the same order.
            payment: How to pay.
            version: Of the cart that the visitor saw; none takes the cart as it is now.

        Raises:
            Problem: ``invalid`` for an unknown method, or for a coupon or credit where no saga leads, ``cart-empty``,
                ``cart-ordered`` with the order that was made of this cart already, ``stale-version`` when the cart is
                no longer at that version, ``price-changed`` with both prices, or ``coupon-refused``.
        """
        if payment.method not in self.methods:
            raise Problem("invalid", f"There is no way to pay called {payment.method!r}.")
        mode = payment.mode or (Mode.ORCHESTRATED if payment.saving.wanted else self.usual)
        if payment.saving.wanted and mode is not Mode.ORCHESTRATED:
            raise Problem("invalid", "A coupon or credit needs a checkout that one service leads: orchestrated.")
        cart = await self.carts.get(visitor_id)
        seen = cart.version if version is None else version
        made = self.orders.made(visitor_id, checkout_id(visitor_id, key), seen)
        # Both at once, for somebody waits; but the first is heard first.
        known, products = await gather(made, products_in(self.catalog, cart), return_exceptions=True)
        # Before anything is compared: what was ordered stays ordered, whatever became of the cart.
        if isinstance(known, BaseException):
            raise known
        if known is not None:
            return known
        if seen != cart.version:
            raise Problem("stale-version", "The cart changed after you looked at it. Nothing was ordered.")
        if isinstance(products, BaseException):
            raise products
        changed = price_changes(cart, products)
        if changed:
            raise Problem("price-changed", "A price has changed since you put the thing in.", prices=changed)
        reduction = None
        if payment.saving.wanted:
            sum_of_lines = total([line.unit_price * line.quantity for line in cart.lines])
            reduction = await self.savings.quote(visitor_id, sum_of_lines, payment.saving)
        return await self.orders.place(
            NewOrder(
                checkout_id=checkout_id(visitor_id, key),
                visitor_id=visitor_id,
                cart_version=cart.version,
                lines=cart.lines,
                method=payment.method,
                mode=mode,
                reduction=reduction,
            )
        )
