"""The users' tables: hashes of passwords, digests of refresh tokens. Nobody signs in with what is here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.columns import Moment
from shop.users.domain import Life


class Base(DeclarativeBase):
    pass


class AccountRow(Base):
    __tablename__ = "account"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(Moment)


class SessionRow(Base):
    """One sign-in on one device, and the family of refresh tokens that prolonged it."""

    __tablename__ = "login_session"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("account.id"), index=True)
    generation: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Moment)
    rotated_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)
    end_reason: Mapped[str | None] = mapped_column(String(16))

    @property
    def life(self) -> Life:
        """The session's state, as the pure rules see it."""
        return Life(self.generation, self.rotated_at, self.expires_at, self.end_reason is not None)


class RefreshTokenRow(Base):
    """The digest of a refresh token that was given out. Past ones are kept, to be known when they come again."""

    __tablename__ = "refresh_token"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("login_session.id", ondelete="CASCADE"), index=True)
    generation: Mapped[int]
