"""What the catalogue answers."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.catalog import seed
from shop.catalog.models import CategoryRow, ProductRow, ProductVersionRow, SellerRow
from shop.events import ProductChanged
from shop.money import Money
from shop.ports import Category, Product, ProductPage
from shop.problems import Problem
from txpatterns import App


class CatalogApi:
    """The catalogue, over its own database."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def stock_shelves(self, seed_number: int) -> None:
        """Fill an empty catalogue. A catalogue that has products is left alone."""
        async with self.app.transaction() as session:
            if await session.scalar(select(ProductRow.sku).limit(1)):
                return
            session.add_all(SellerRow(name=name) for name in seed.SELLERS)
            session.add_all(
                CategoryRow(slug=slug, name=name, place=place) for place, (slug, name) in enumerate(seed.CATEGORIES)
            )
            await session.flush()
            session.add_all(_row(product) for product in seed.products(seed_number))

    async def categories(self) -> list[Category]:
        """List the categories in their order."""
        async with self.app.session() as session:
            rows = await session.scalars(select(CategoryRow).order_by(CategoryRow.place))
            return [Category(slug=row.slug, name=row.name) for row in rows]

    async def products(self, category: str | None, words: str | None, after: str | None, limit: int) -> ProductPage:
        """List products in the shop's order, a page at a time; ``next`` is where the following page starts, if any.

        Raises:
            Problem: ``invalid`` when ``after`` is no such place.
        """
        query = select(ProductRow).order_by(ProductRow.place).limit(limit + 1)
        if category is not None:
            query = query.where(ProductRow.category == category)
        if after is not None:
            if not after.isdecimal():
                raise Problem("invalid", "This is no place in the catalogue.")
            query = query.where(ProductRow.place > int(after))
        for word in (words or "").lower().split():
            query = query.where(ProductRow.words.contains(word, autoescape=True))
        async with self.app.session() as session:
            rows = (await session.scalars(query)).all()
        items = [_view(row) for row in rows[:limit]]
        return ProductPage(items=items, next=str(rows[limit - 1].place) if len(rows) > limit else None)

    async def product(self, sku: str) -> Product:
        """Give one product.

        Raises:
            Problem: ``not-found``.
        """
        found = await self.products_by_sku([sku])
        if not found:
            raise Problem("not-found", f"There is no product {sku}.")
        return found[0]

    async def products_by_sku(self, skus: list[str]) -> list[Product]:
        """Give those of the named products that exist."""
        async with self.app.session() as session:
            rows = await session.scalars(select(ProductRow).where(ProductRow.sku.in_(skus)))
            return [_view(row) for row in rows]

    async def set_price(self, sku: str, price: Money) -> Product:
        """Give a product another price, and tell it; the same price again changes nothing.

        Raises:
            Problem: ``not-found``, or ``invalid`` for a price that is not more than nothing.
        """
        if price.minor <= 0:
            raise Problem("invalid", "A price is more than nothing.")
        async with self.app.transaction() as session:
            row = await _locked(session, sku)
            if (row.price_minor, row.currency) != (price.minor, price.currency):
                row.price_minor, row.currency = price.minor, price.currency
                row.changed = row.changed or ProductVersionRow(sku=sku, version=0)
                row.changed.version += 1
                self.app.outbox.add(session, ProductChanged(sku=sku, version=row.changed.version, price=price))
            return _view(row)


async def _locked(session: AsyncSession, sku: str) -> ProductRow:
    row = await session.get(ProductRow, sku, with_for_update=True)
    if row is None:
        raise Problem("not-found", f"There is no product {sku}.")
    return row


def _row(product: seed.SeedProduct) -> ProductRow:
    price = Money(amount=product.price)
    return ProductRow(
        sku=product.sku,
        name=product.name,
        words=f"{product.name} {product.blurb} {product.category} {product.art}".lower(),
        blurb=product.blurb,
        description=product.description,
        category=product.category,
        seller=product.seller,
        price_minor=price.minor,
        currency=price.currency,
        art=product.art,
        hue=product.hue,
        place=product.place,
    )


def _view(row: ProductRow) -> Product:
    return Product(
        sku=row.sku,
        name=row.name,
        blurb=row.blurb,
        description=row.description,
        category=row.category,
        seller=row.seller,
        price=Money.of_minor(row.price_minor, row.currency),
        art=row.art,
        hue=row.hue,
        version=row.changed.version if row.changed else 0,
    )
