"""The orders' table. One checkout makes one order, whatever happens on the way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shop.columns import Moment
from shop.orders.domain import CancelReason, Life, Status


class Base(DeclarativeBase):
    pass


class OrderRow(Base):
    __tablename__ = "shop_order"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    checkout_id: Mapped[str] = mapped_column(String(80), unique=True)
    visitor_id: Mapped[str] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16))
    canceling: Mapped[str | None] = mapped_column(String(32))
    lines: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    total_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    method: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(Moment)
    pay_by: Mapped[datetime] = mapped_column(Moment)
    saga: Mapped[LedOrderRow | None] = relationship(lazy="selectin")

    @property
    def life(self) -> Life:
        """The order's state, as the pure rules see it."""
        reason = CancelReason(self.canceling) if self.canceling else None
        return Life(Status(self.status), reason, led_by_saga=self.saga is not None)

    @life.setter
    def life(self, life: Life) -> None:
        self.status = life.status.value
        self.canceling = life.canceling.value if life.canceling else None


class LedOrderRow(Base):
    """An order whose checkout a saga leads. A table of its own: shops that are older than it have their orders."""

    __tablename__ = "led_order"

    order_id: Mapped[str] = mapped_column(ForeignKey("shop_order.id"), primary_key=True)
    # Joined, so that an order without one costs no query more.
    reduction: Mapped[ReductionRow | None] = relationship(lazy="joined")


class ReductionRow(Base):
    """What an order that a saga leads is reduced by."""

    __tablename__ = "order_reduction"

    order_id: Mapped[str] = mapped_column(ForeignKey("led_order.order_id"), primary_key=True)
    coupon: Mapped[str | None] = mapped_column(String(40))
    discount_minor: Mapped[int]
    credit_minor: Mapped[int]
    to_pay_minor: Mapped[int]


class OrderedCartRow(Base):
    """Which order was made of a visitor's cart at a version: of what the visitor saw there is one order at a time."""

    __tablename__ = "ordered_cart"

    visitor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cart_version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    order_id: Mapped[str] = mapped_column(ForeignKey("shop_order.id"))
