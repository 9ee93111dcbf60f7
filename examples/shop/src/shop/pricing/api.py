"""What the coupons answer."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from shop.money import Money
from shop.ports import CouponQuote
from shop.pricing.domain import Offer, Refusal
from shop.pricing.models import CouponHoldRow, CouponRow
from shop.problems import Problem
from txpatterns import App


class PricingApi:
    """Coupons, over their own database. What sets them aside is the participant in ``shop.pricing.app``."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def print_coupons(self, offers: Sequence[Offer]) -> None:
        """Put coupons there that are not there yet."""
        async with self.app.transaction() as session:
            known = set(await session.scalars(select(CouponRow.code)))
            session.add_all(
                CouponRow(
                    code=offer.code,
                    says=offer.says,
                    percent=offer.percent,
                    minor=offer.minor,
                    least_minor=offer.least_minor,
                    currency=offer.currency,
                    most=offer.uses,
                )
                for offer in offers
                if offer.code not in known
            )

    async def quote(self, visitor_id: str, code: str, total: Money) -> CouponQuote:
        """Say what a coupon would take off a visitor's order. Nothing is set aside by it.

        Raises:
            Problem: ``coupon-refused``, with why.
        """
        async with self.app.session() as session:
            row = await session.get(CouponRow, code)
            hold = await session.get(CouponHoldRow, (code, visitor_id))
        refusal = refused(row, hold, total)
        if row is None or refusal is not None:
            raise Problem("coupon-refused", f"{code} cannot be used: {refusal}.")
        return CouponQuote(code=code, says=row.says, discount=row.offer.discount(total))


def refused(row: CouponRow | None, hold: CouponHoldRow | None, total: Money) -> Refusal | None:
    """Say why somebody's order cannot have a coupon; None: it can.

    Args:
        row: The coupon.
        hold: The same person's use of it, if there was one.
        total: What the order costs without it.
    """
    if row is None:
        return Refusal.UNKNOWN
    if hold is not None and hold.state != "released":
        return Refusal.USED_BY_YOU
    return row.offer.refusal(total) or (None if row.uses.left else Refusal.USED_UP)
