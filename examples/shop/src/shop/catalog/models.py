"""The catalogue's tables."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class CategoryRow(Base):
    __tablename__ = "category"

    slug: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    place: Mapped[int]


class SellerRow(Base):
    __tablename__ = "seller"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)


class ProductRow(Base):
    __tablename__ = "product"

    sku: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    words: Mapped[str] = mapped_column(Text)  # what a search looks through, in small letters
    blurb: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(ForeignKey("category.slug"), index=True)
    seller: Mapped[str] = mapped_column(ForeignKey("seller.name"))
    price_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    art: Mapped[str] = mapped_column(String(40))
    hue: Mapped[int]
    place: Mapped[int] = mapped_column(unique=True)
    changed: Mapped[ProductVersionRow | None] = relationship(lazy="selectin")


class ProductVersionRow(Base):
    """How often a product was changed. A table of its own: shops that are older than it have their products."""

    __tablename__ = "product_version"

    sku: Mapped[str] = mapped_column(ForeignKey("product.sku"), primary_key=True)
    version: Mapped[int]
