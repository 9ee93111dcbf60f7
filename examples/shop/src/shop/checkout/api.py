"""What the checkout answers: it places orders, and says how a session stands."""

from __future__ import annotations

from shop.checkout.models import SessionRow
from shop.checkout.placing import Placing
from shop.ports import CheckoutSession, Mode, Order
from shop.problems import Problem
from txpatterns import App


class CheckoutApi:
    """Orders are placed with others; sessions are over their own database.

    Args:
        app: The service's App.
        placing: How an order is placed.
    """

    def __init__(self, app: App, placing: Placing) -> None:
        self.app = app
        self.placing = placing

    async def place(self, visitor_id: str, key: str, method: str, mode: Mode | None, version: int | None) -> Order:
        """Order what is in the visitor's cart: see ``Placing``."""
        return await self.placing.place(visitor_id, key, method, mode, version)

    async def get(self, visitor_id: str, order_id: str) -> CheckoutSession:
        """Show the session of an order to the visitor who placed it.

        Raises:
            Problem: ``not-found``, also where no saga leads that order, or has not begun yet.
        """
        async with self.app.session() as session:
            row = await session.get(SessionRow, order_id)
            if row is None or row.visitor_id != visitor_id:
                raise Problem("not-found", "No checkout of yours is led by a saga under this id.")
            return CheckoutSession(order_id=row.order_id, status=row.status, reason=row.reason)
