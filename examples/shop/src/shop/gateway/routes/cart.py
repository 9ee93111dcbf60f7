"""The visitor's cart. Its version travels as ETag."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from shop.gateway.checkout import LONGEST_VERSION
from shop.gateway.context import Ctx, Who
from shop.ports import Cart
from shop.problems import Problem

router = APIRouter(prefix="/api/v1/cart", tags=["cart"])


class NewItem(BaseModel):
    sku: str
    quantity: int = Field(default=1, ge=1, le=99)


class ItemChange(BaseModel):
    quantity: int = Field(ge=1, le=99)


def etag(cart: Cart) -> str:
    """Give the tag of a cart's version."""
    return f'"v{cart.version}"'


def version_of(tag: str | None) -> int | None:
    """Read a version from an If-Match header; none, or ``*``, fits every version.

    Raises:
        Problem: ``stale-version`` for a tag that was never ours.
    """
    if tag is None or tag.strip() == "*":
        return None
    number = tag.strip().removeprefix("W/").strip('"').removeprefix("v")
    if not number.isdecimal() or len(number) >= LONGEST_VERSION:
        raise Problem("stale-version", f"{tag} is no version of this cart.")
    return int(number)


@router.get("")
async def get_cart(context: Ctx, visitor: Who, response: Response) -> Cart:
    """Show the cart; a new visitor's is empty."""
    cart = await context.services.carts.get(visitor.id)
    response.headers["ETag"] = etag(cart)
    return cart


@router.post("/items", status_code=201)
async def add_cart_item(context: Ctx, visitor: Who, item: NewItem, response: Response) -> Cart:
    """Put something in; the same thing again is added to what is there."""
    cart = await context.services.carts.add(visitor.id, item.sku, item.quantity, None)
    response.headers["ETag"] = etag(cart)
    return cart


@router.put("/items/{item_id}")
async def update_cart_item(
    context: Ctx,
    visitor: Who,
    item_id: str,
    change: ItemChange,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> Cart:
    """Set how many are wanted; with If-Match only if nobody changed the cart meanwhile."""
    cart = await context.services.carts.update(visitor.id, item_id, change.quantity, version_of(if_match))
    response.headers["ETag"] = etag(cart)
    return cart


@router.post("/prices")
async def take_new_prices(context: Ctx, visitor: Who, response: Response) -> Cart:
    """Agree to prices that changed since the things were put in. Without any, nothing changes."""
    cart = await context.services.carts.reprice(visitor.id)
    response.headers["ETag"] = etag(cart)
    return cart


@router.delete("/items/{item_id}", status_code=204)
async def remove_cart_item(context: Ctx, visitor: Who, item_id: str) -> None:
    """Take a line out. Again is fine."""
    await context.services.carts.remove(visitor.id, item_id)


@router.delete("", status_code=204)
async def clear_cart(context: Ctx, visitor: Who) -> None:
    """Take everything out. Again is fine."""
    await context.services.carts.clear(visitor.id)
