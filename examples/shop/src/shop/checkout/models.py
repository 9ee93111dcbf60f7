"""The checkout's table: one session for each checkout, and how it ended."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment


class Base(DeclarativeBase):
    pass


class SessionRow(Base):
    """``status`` is STARTED, COMPLETED or FAILED. One visitor has one session for a key, whatever asks for it."""

    __tablename__ = "checkout_session"
    __table_args__ = (UniqueConstraint("visitor_id", "key"),)

    order_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    visitor_id: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(32))
    total_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    started_at: Mapped[datetime] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
