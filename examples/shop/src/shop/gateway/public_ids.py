"""Orders' ids as they are shown: an id tells when an order was made and how many there are; the text for it does not.

Inside the shop, in its databases, events and calls, an order has its number. Everything in front of that has the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from shop.money import Money
from shop.ports import Checkouts, CheckoutSession, Mode, Order, OrderPage, Orders, Saving
from shop.problems import Problem
from shop.reductions import Reduction
from txpatterns.errors import IdInvalid
from txpatterns.ids import Obfuscator

DIGITS = 19
"""Of an order's number, with zeros before it: as text it sorts as it does as a number."""


class OrderIds:
    """Turns orders' ids into what is shown of them, and back. Ids of orders from before they were numbers stay.

    Args:
        key: The secret that it takes to do either.
    """

    def __init__(self, key: str) -> None:
        self._numbers = Obfuscator(key, "order")

    def hide(self, order_id: str) -> str:
        """Give the text that is shown for an id."""
        return self._numbers.hide(int(order_id)) if _is_number(order_id) else order_id

    def reveal(self, shown: str) -> str:
        """Give the id for which a text was shown; never for one that is the number itself.

        Raises:
            Problem: ``not-found`` for a text that stands for none.
        """
        if _is_uuid(shown):
            return shown
        try:
            return f"{self._numbers.reveal(shown):0{DIGITS}}"
        except IdInvalid as error:
            raise Problem("not-found", "You have no such order.") from error

    def masked(self, told: Mapping[str, Any], order_id: str) -> dict[str, Any]:
        """Give what is told of an order with the text in the place of its id, wherever that stands."""
        shown = self.hide(order_id)
        return {name: _replaced(value, order_id, shown) for name, value in told.items()}

    def order(self, order: Order) -> Order:
        """Give an order as it is shown."""
        return order.model_copy(update={"id": self.hide(order.id)})


class ShownOrders:
    """Orders, by the texts that are shown for their ids."""

    def __init__(self, source: Orders, ids: OrderIds) -> None:
        self.source = source
        self.ids = ids

    async def get(self, visitor_id: str, order_id: str) -> Order:
        """Show an order to the visitor who placed it. Raises Problem ``not-found``."""
        return self.ids.order(await self.source.get(visitor_id, self.ids.reveal(order_id)))

    async def list(self, visitor_id: str, after: str | None, limit: int) -> OrderPage:
        """List a visitor's orders, newest first: see ``OrdersApi``."""
        page = await self.source.list(visitor_id, None if after is None else self.ids.reveal(after), limit)
        following = None if page.next is None else self.ids.hide(page.next)
        return OrderPage(items=[self.ids.order(order) for order in page.items], next=following)

    async def cancel(self, visitor_id: str, order_id: str) -> Order:
        """Call an order off that is not paid yet: see ``OrdersApi``."""
        return self.ids.order(await self.source.cancel(visitor_id, self.ids.reveal(order_id)))


class ShownCheckouts:
    """Checkouts, by the texts that are shown for their orders' ids."""

    def __init__(self, source: Checkouts, ids: OrderIds) -> None:
        self.source = source
        self.ids = ids

    async def place(
        self,
        visitor_id: str,
        key: str,
        method: str,
        mode: Mode | None,
        version: int | None,
        saving: Saving | None = None,
    ) -> Order:
        """Order what is in the visitor's cart: see ``Placing``."""
        try:
            return self.ids.order(await self.source.place(visitor_id, key, method, mode, version, saving))
        except Problem as problem:
            if "order" in problem.extra:
                problem.extra["order"] = self.ids.hide(str(problem.extra["order"]))
            raise

    async def quote(self, visitor_id: str, total: Money, saving: Saving) -> Reduction:
        """Say what an order of this total would be reduced by: see ``CheckoutApi``."""
        return await self.source.quote(visitor_id, total, saving)

    async def get(self, visitor_id: str, order_id: str) -> CheckoutSession:
        """Show the session of an order: see ``CheckoutApi``."""
        found = await self.source.get(visitor_id, self.ids.reveal(order_id))
        return found.model_copy(update={"order_id": order_id})


def _is_number(order_id: str) -> bool:
    return len(order_id) == DIGITS and order_id.isascii() and order_id.isdecimal()


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _replaced(value: Any, order_id: str, shown: str) -> Any:
    """Put a text in the place of an id, in strings at any depth."""
    if isinstance(value, str):
        return value.replace(order_id, shown)
    if isinstance(value, Mapping):
        return {name: _replaced(each, order_id, shown) for name, each in value.items()}
    return [_replaced(each, order_id, shown) for each in value] if isinstance(value, list) else value
