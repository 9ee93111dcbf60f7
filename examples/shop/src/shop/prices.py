"""Whether what a visitor saw still costs what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shop.ports import Cart, Catalog, Product


async def products_in(catalog: Catalog, cart: Cart) -> dict[str, Product]:
    """Give the products of a cart's lines, by sku, as the catalogue has them now."""
    found = await catalog.products_by_sku([line.sku for line in cart.lines])
    return {product.sku: product for product in found}


def price_changes(cart: Cart, products: Mapping[str, Product]) -> list[dict[str, Any]]:
    """Say which prices are not those that the visitor saw: the one in the cart, and the one now."""
    return [
        {
            "sku": line.sku,
            "in_cart": line.unit_price.model_dump(mode="json"),
            "now": products[line.sku].price.model_dump(mode="json"),
        }
        for line in cart.lines
        if line.sku in products and products[line.sku].price != line.unit_price
    ]
