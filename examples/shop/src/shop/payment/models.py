"""The payment's tables. A webhook's event id is written down once: the same news again finds it there."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment


class Base(DeclarativeBase):
    pass


class PaymentRow(Base):
    __tablename__ = "payment"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    order_id: Mapped[str] = mapped_column(String(36), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    amount_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    method: Mapped[str] = mapped_column(String(16))
    charge_id: Mapped[str | None] = mapped_column(String(36))
    correlation_id: Mapped[str] = mapped_column(String(200))  # of the order's story, for what the bank starts later
    pay_by: Mapped[datetime] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment)


class WebhookEventRow(Base):
    """What the bank told us, as it came, with what we made of it."""

    __tablename__ = "webhook_event"

    event_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    payment_id: Mapped[str] = mapped_column(String(36), index=True)
    kind: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(String(120))
    received_at: Mapped[datetime] = mapped_column(Moment, index=True)
