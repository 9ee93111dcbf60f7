"""What the checkout answers: how a session stands."""

from __future__ import annotations

from shop.checkout.models import SessionRow
from shop.ports import CheckoutSession
from shop.problems import Problem
from txpatterns import App


class CheckoutApi:
    """Sessions, over their own database."""

    def __init__(self, app: App) -> None:
        self.app = app

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
