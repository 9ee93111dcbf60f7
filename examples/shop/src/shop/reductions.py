"""What makes an order cheaper: a coupon, and credit that its buyer has with the shop."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from shop.money import Money


class Reduction(BaseModel):
    """What an order's total is reduced by, as it was told to who ordered: ``to_pay`` is what is left for the bank."""

    model_config = ConfigDict(frozen=True)

    coupon: str | None
    discount: Money
    """Nothing, without a coupon."""
    credit: Money
    to_pay: Money
