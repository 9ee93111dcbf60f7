"""The cart's tables. Prices are those seen when a thing was put in."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shop.columns import Moment


class Base(DeclarativeBase):
    pass


class CartRow(Base):
    __tablename__ = "cart"

    visitor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    lines: Mapped[list[CartLineRow]] = relationship(
        lazy="selectin", cascade="all, delete-orphan", order_by="CartLineRow.added_at"
    )


class SettledOrderRow(Base):
    """An order whose things were taken out of the cart: told again, by whichever event, it changes nothing."""

    __tablename__ = "settled_order"

    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)


class MovedLineRow(Base):
    """Where a line went when its visitor signed in: an order that was made of it before is settled there."""

    __tablename__ = "moved_line"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    visitor_id: Mapped[str] = mapped_column(String(64))
    line_id: Mapped[str] = mapped_column(String(36))
    moved_at: Mapped[datetime] = mapped_column(Moment)


class CartLineRow(Base):
    __tablename__ = "cart_line"
    __table_args__ = (UniqueConstraint("visitor_id", "sku"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    visitor_id: Mapped[str] = mapped_column(ForeignKey("cart.visitor_id"))
    sku: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(120))
    quantity: Mapped[int]
    price_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    added_at: Mapped[datetime] = mapped_column(Moment)
