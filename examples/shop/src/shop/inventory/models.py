"""The stock's tables: the shelf, what is set aside for whom, and a ledger of every movement."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment


class Base(DeclarativeBase):
    pass


class StockRow(Base):
    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("available >= 0 AND reserved >= 0 AND sold >= 0"),)

    sku: Mapped[str] = mapped_column(String(40), primary_key=True)
    available: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)
    sold: Mapped[int] = mapped_column(default=0)


class ReservationRow(Base):
    """One per order; ``state`` is reserved, rejected, released or sold."""

    __tablename__ = "reservation"

    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    lines: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    until: Mapped[datetime] = mapped_column(Moment)


class LedgerRow(Base):
    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    order_id: Mapped[str] = mapped_column(String(36), index=True)
    sku: Mapped[str] = mapped_column(String(40))
    movement: Mapped[str] = mapped_column(String(16))
    quantity: Mapped[int]
    at: Mapped[datetime] = mapped_column(Moment)
