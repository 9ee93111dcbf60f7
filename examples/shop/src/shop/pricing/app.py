"""The coupons' part in a checkout: one is set aside, and then it is used, or given back."""

from __future__ import annotations

from datetime import UTC, datetime

from shop.events import CouponHeld, CouponReleased, CouponUsed
from shop.money import Money
from shop.pricing.api import refused
from shop.pricing.domain import Refusal
from shop.pricing.models import CouponHoldRow, CouponRow
from txpatterns import App, Reject
from txpatterns.tcc import BranchTransaction


def take_part(app: App) -> None:
    """Let coupons be reserved, confirmed and canceled in the transactions of others."""

    @app.tcc.participant("coupon")
    async def coupon(
        tx: BranchTransaction, order_id: str, visitor_id: str, code: str, total: Money, discount: Money
    ) -> None:
        row = await tx.session.get(CouponRow, code, with_for_update=True)
        hold = await tx.session.get(CouponHoldRow, (code, visitor_id))
        if (refusal := refused(row, hold, total)) is not None:
            raise Reject(refusal)
        assert row is not None, "a coupon that is none is refused"
        if row.offer.discount(total) != discount:
            raise Reject(Refusal.OTHER_DISCOUNT)
        row.uses = row.uses.hold()
        hold = hold or CouponHoldRow(code=code, visitor_id=visitor_id)
        hold.order_id, hold.state, hold.discount_minor, hold.at = order_id, "held", discount.minor, datetime.now(UTC)
        tx.session.add(hold)
        tx.emit(CouponHeld(order_id=order_id, code=code, discount=discount))

    @coupon.confirm
    async def use(
        tx: BranchTransaction, order_id: str, visitor_id: str, code: str, total: Money, discount: Money
    ) -> None:
        row, hold = await _held(tx, code, visitor_id)
        row.uses, hold.state = row.uses.use(), "used"
        tx.emit(CouponUsed(order_id=order_id, code=code, discount=discount))

    @coupon.cancel
    async def give_back(
        tx: BranchTransaction, order_id: str, visitor_id: str, code: str, total: Money, discount: Money
    ) -> None:
        row, hold = await _held(tx, code, visitor_id)
        row.uses, hold.state = row.uses.release(), "released"
        tx.emit(CouponReleased(order_id=order_id, code=code))


async def _held(tx: BranchTransaction, code: str, visitor_id: str) -> tuple[CouponRow, CouponHoldRow]:
    row = await tx.session.get_one(CouponRow, code, with_for_update=True)
    return row, await tx.session.get_one(CouponHoldRow, (code, visitor_id))
