"""What an order is reduced by: the coupon first, and the visitor's credit off what is left."""

from __future__ import annotations

from dataclasses import dataclass

from shop.money import Money
from shop.ports import Pricing, Saving, Wallets
from shop.reductions import Reduction


@dataclass(frozen=True, slots=True)
class Savings:
    """Who is asked what somebody may save."""

    pricing: Pricing
    wallets: Wallets

    async def quote(self, visitor_id: str, total: Money, saving: Saving) -> Reduction:
        """Say what an order of this total would be reduced by. Nothing is set aside by it.

        Raises:
            Problem: ``coupon-refused``.
        """
        discount = credit = Money.of_minor(0, total.currency)
        if saving.coupon is not None:
            discount = (await self.pricing.quote(visitor_id, saving.coupon, total)).discount
        left = total - discount
        if saving.use_credit:
            there = (await self.wallets.get(visitor_id)).available
            if there.currency == left.currency:
                credit = Money.of_minor(min(there.minor, left.minor), left.currency)
        return Reduction(coupon=saving.coupon, discount=discount, credit=credit, to_pay=left - credit)
