"""What the gateway remembers of others: carts and products, each with the version that it is of.

Whoever changes something here tells the cache which version came of it; what is changed elsewhere is told by events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from shop import events
from shop.backends import if_there
from shop.gateway.seen import has_made, seen_version
from shop.money import Money
from shop.ports import Cart, Carts, Catalog, Category, Product, ProductPage
from shop.problems import Problem
from txpatterns import App, Transaction
from txpatterns.hooks import HookList
from txpatterns.resilience import Cache, RedisEntries

T = TypeVar("T")

USUAL = timedelta(minutes=15)
ALONE = timedelta(seconds=5)
"""How long a gateway that shares nothing with the others remembers: an event reaches one of them, and not all."""


class RememberedCarts:
    """Carts as they are: what a visitor has changed they see at once, at whichever gateway.

    Args:
        source: What answers for the carts.
        cache: Where they are remembered, by the visitor's id.
    """

    def __init__(self, source: Carts, cache: Cache[Cart]) -> None:
        self.source = source
        self.cache = cache

    async def get(self, visitor_id: str) -> Cart:
        """Show the cart: at least at the version that the visitor has seen."""
        return await self.cache.aget(visitor_id, partial(self.source.get, visitor_id), seen_version(visitor_id))

    async def add(self, visitor_id: str, sku: str, quantity: int, version: int | None) -> Cart:
        """Put so many of a product in: see ``CartApi``."""
        return await self._changing(visitor_id, self.source.add(visitor_id, sku, quantity, version))

    async def update(self, visitor_id: str, line_id: str, quantity: int, version: int | None) -> Cart:
        """Set how many of a line are wanted: see ``CartApi``."""
        return await self._changing(visitor_id, self.source.update(visitor_id, line_id, quantity, version))

    async def remove(self, visitor_id: str, line_id: str) -> None:
        """Take a line out: see ``CartApi``."""
        await self._changing(visitor_id, self.source.remove(visitor_id, line_id))

    async def reprice(self, visitor_id: str) -> Cart:
        """Put the prices of now on every line: see ``CartApi``."""
        return await self._changing(visitor_id, self.source.reprice(visitor_id))

    async def clear(self, visitor_id: str) -> None:
        """Take everything out: see ``CartApi``."""
        await self._changing(visitor_id, self.source.clear(visitor_id))

    async def take_over(self, visitor_id: str, user_id: str) -> Cart:
        """Put a visitor's cart into an account's: see ``CartApi``. Both are known to be others than before."""
        try:
            return await self._changing(user_id, self.source.take_over(visitor_id, user_id))
        finally:
            await self.forget(visitor_id)

    async def forget(self, visitor_id: str) -> None:
        """Look anew the next time."""
        await self.wrote(visitor_id, None)

    async def wrote(self, visitor_id: str, version: int | None) -> None:
        """Know that a version was written: no older one is shown to anybody. None: nobody knows which."""
        await self.cache.awrote(visitor_id, version)

    async def _changing(self, visitor_id: str, change: Awaitable[T]) -> T:
        """Make a change, and know which version came of it, or that nobody knows.

        Also a refusal tells something: that the cart is not what was remembered of it.
        """
        try:
            changed = await change
        except BaseException:
            await self.forget(visitor_id)
            raise
        cart = changed if isinstance(changed, Cart) else await if_there(self.source.get(visitor_id))
        if cart is None:
            await self.forget(visitor_id)
        else:
            await self.wrote(visitor_id, cart.version)
            has_made(visitor_id, cart.version)
        return changed


class RememberedCatalog:
    """Products by their sku are remembered; lists and searches are asked for each time."""

    def __init__(self, source: Catalog, cache: Cache[Product]) -> None:
        self.source = source
        self.cache = cache

    async def categories(self) -> list[Category]:
        """List the categories in their order."""
        return await self.source.categories()

    async def products(self, category: str | None, words: str | None, after: str | None, limit: int) -> ProductPage:
        """List products, a page at a time: see ``CatalogApi``."""
        return await self.source.products(category, words, after, limit)

    async def product(self, sku: str) -> Product:
        """Give one product. Raises Problem ``not-found``."""
        return await self.cache.aget(sku, partial(self.source.product, sku))

    async def products_by_sku(self, skus: list[str]) -> list[Product]:
        """Give those of the named products that exist."""
        found = await asyncio.gather(*(self._product(sku) for sku in dict.fromkeys(skus)))
        return [product for product in found if product is not None]

    async def set_price(self, sku: str, price: Money) -> Product:
        """Give a product another price: see ``CatalogApi``."""
        changed = await self.source.set_price(sku, price)
        await self.wrote(sku, changed.version)
        return changed

    async def wrote(self, sku: str, version: int) -> None:
        """Know that a version was written: no older one is shown to anybody."""
        await self.cache.awrote(sku, version)

    async def _product(self, sku: str) -> Product | None:
        try:
            return await self.product(sku)
        except Problem as problem:
            if problem.kind.slug != "not-found":
                raise
            return None


def remember_carts(source: Carts, entries: RedisEntries | None, ttl: timedelta, hooks: HookList) -> RememberedCarts:
    """Remember carts in Redis, or in this process."""
    return RememberedCarts(
        source,
        Cache(
            "cart",
            Cart,
            version=lambda cart: cart.version,
            entries=entries,
            ttl=ttl,
            jitter=ttl / 3,
            hooks=hooks,
        ),
    )


def remember_catalog(
    source: Catalog, entries: RedisEntries | None, ttl: timedelta, hooks: HookList
) -> RememberedCatalog:
    """Remember products in Redis, or in this process."""
    return RememberedCatalog(
        source,
        Cache(
            "product",
            Product,
            version=lambda product: product.version,
            entries=entries,
            ttl=ttl,
            jitter=ttl / 3,
            hooks=hooks,
        ),
    )


def listen(app: App, carts: RememberedCarts, catalog: RememberedCatalog) -> None:
    """Hear of what was changed by somebody else, or by a gateway that died before it could say so."""

    @app.on(events.CartChanged)
    async def know_cart(event: events.CartChanged, tx: Transaction) -> None:
        await carts.wrote(event.visitor_id, event.version)

    @app.on(events.ProductChanged)
    async def know_product(event: events.ProductChanged, tx: Transaction) -> None:
        await catalog.wrote(event.sku, event.version)
