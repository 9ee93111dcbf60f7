"""What the checkout answers: it places orders, and says how a session stands."""

from __future__ import annotations

from shop.checkout.models import SessionRow
from shop.checkout.placing import Payment, Placing
from shop.money import Money
from shop.ports import CheckoutSession, Mode, Order, Saving
from shop.problems import Problem
from shop.reductions import Reduction
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
        return await self.placing.place(visitor_id, key, Payment(method, mode, saving or Saving()), version)

    async def quote(self, visitor_id: str, total: Money, saving: Saving) -> Reduction:
        """Say what an order of this total would be reduced by: see ``Savings``."""
        return await self.placing.savings.quote(visitor_id, total, saving)

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
