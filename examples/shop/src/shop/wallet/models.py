"""The wallet's tables: what each has now, and the books that say how it came about."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment
from shop.wallet.domain import Credit


class Base(DeclarativeBase):
    pass


class WalletRow(Base):
    """What somebody has now: the sum of the entries of their two accounts, kept where it can be locked."""

    __tablename__ = "wallet"
    __table_args__ = (CheckConstraint("available >= 0 AND held >= 0"),)

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    available: Mapped[int]
    held: Mapped[int]

    @property
    def credit(self) -> Credit:
        """The same, as the pure rules see it."""
        return Credit(self.available, self.held)

    @credit.setter
    def credit(self, credit: Credit) -> None:
        self.available, self.held = credit.available, credit.held


class EntryRow(Base):
    """One side of a transfer. The sides of each add up to nothing; entries are only ever added."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    transfer_id: Mapped[str] = mapped_column(String(36), index=True)
    account: Mapped[str] = mapped_column(String(80), index=True)
    minor: Mapped[int]
    what: Mapped[str] = mapped_column(String(16))
    order_id: Mapped[str | None] = mapped_column(String(36))
    at: Mapped[datetime] = mapped_column(Moment)
