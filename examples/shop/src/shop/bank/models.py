"""The bank's own table of charges."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment


class Base(DeclarativeBase):
    pass


class ChargeRow(Base):
    __tablename__ = "charge"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(36), unique=True)
    key: Mapped[str] = mapped_column(String(80), unique=True)  # the shop's own id for it: asked twice, charged once
    amount_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    captured_at: Mapped[datetime | None] = mapped_column(Moment)
    failed: Mapped[bool]
    refund_key: Mapped[str | None] = mapped_column(String(80), unique=True)

    def status(self, now: datetime) -> str:
        """Say how the charge stands: pending, captured, failed or refunded."""
        if self.refund_key is not None:
            return "refunded"
        if self.failed:
            return "failed"
        return "captured" if self.captured_at is not None and self.captured_at <= now else "pending"
