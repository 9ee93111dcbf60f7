"""The coupons' tables: how many uses each has, and who has which."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment
from shop.pricing.domain import Offer, Uses


class Base(DeclarativeBase):
    pass


class CouponRow(Base):
    __tablename__ = "coupon"
    __table_args__ = (CheckConstraint("held >= 0 AND used >= 0 AND held + used <= most"),)

    code: Mapped[str] = mapped_column(String(40), primary_key=True)
    says: Mapped[str] = mapped_column(String(200))
    percent: Mapped[int]
    minor: Mapped[int]
    least_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    most: Mapped[int]
    held: Mapped[int] = mapped_column(default=0)
    used: Mapped[int] = mapped_column(default=0)

    @property
    def offer(self) -> Offer:
        """The coupon, as the pure rules see it."""
        return Offer(self.code, self.says, self.most, self.percent, self.minor, self.least_minor, self.currency)

    @property
    def uses(self) -> Uses:
        """Its uses, as the pure rules see them."""
        return Uses(self.most, self.held, self.used)

    @uses.setter
    def uses(self, uses: Uses) -> None:
        self.held, self.used = uses.held, uses.used


class CouponHoldRow(Base):
    """One person's use of a coupon: its key makes it one. ``state`` is held, used or released."""

    __tablename__ = "coupon_hold"

    code: Mapped[str] = mapped_column(ForeignKey("coupon.code"), primary_key=True)
    visitor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    order_id: Mapped[str] = mapped_column(String(36))
    state: Mapped[str] = mapped_column(String(16))
    discount_minor: Mapped[int]
    at: Mapped[datetime] = mapped_column(Moment)
