"""Products, with what is left of them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from pydantic import BaseModel

from shop.gateway.context import Ctx
from shop.ports import Category, Product, StockLevel
from shop.problems import Problem

router = APIRouter(prefix="/api/v1", tags=["catalog"])


class ProductList(BaseModel):
    """A page of products; ``next`` is the address of the following page, if there is one."""

    items: list[Product]
    next: str | None


class ProductWithStock(BaseModel):
    product: Product
    stock: StockLevel


@router.get("/products")
async def list_products(
    context: Ctx,
    category: str | None = None,
    q: Annotated[str | None, Query(max_length=80)] = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ProductList:
    """List products in the shop's order, a page at a time."""
    page = await context.services.catalog.products(category, q, after, limit)
    following = None
    if page.next is not None:
        wanted = {"category": category, "q": q, "after": page.next, "limit": limit}
        following = "/api/v1/products?" + urlencode({name: v for name, v in wanted.items() if v is not None})
    return ProductList(items=page.items, next=following)


@router.get("/products/{sku}")
async def get_product(context: Ctx, sku: str) -> ProductWithStock:
    """Show one product and its shelf."""
    product = await context.services.catalog.product(sku)
    levels = await context.services.inventory.levels([sku])
    if not levels:
        raise Problem("not-found", f"Nothing is known about the stock of {sku}.")
    return ProductWithStock(product=product, stock=levels[0])


@router.get("/categories")
async def list_categories(context: Ctx) -> list[Category]:
    """List the categories."""
    return await context.services.catalog.categories()
