"""The storefront: pages made on the server, which sell without a script."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from shop.backends import if_there
from shop.gateway import checkout
from shop.gateway.context import Context, Ctx, Who
from shop.gateway.visitors import Visitor
from shop.ports import Cart, Mode, Saving, StockLevel
from shop.prices import price_changes, products_in
from shop.problems import Problem
from shop.reductions import Reduction

router = APIRouter(include_in_schema=False)
PAGE = 24
ALREADY = "shop_already"
"""The cookie that the order's page says once, and forgets: this cart was ordered before."""
NO_PRICES = "The catalogue does not answer. These are the prices that you saw; they are looked at when you order."
CHANGED = "The cart changed in another window. Here it is as it is now; nothing was ordered."


@router.get("/")
async def home(
    context: Ctx, visitor: Who, category: str | None = None, q: str | None = None, after: str | None = None
) -> HTMLResponse:
    """Show the products: all of them, a category, or what a search finds."""
    words = (q or "").strip() or None
    categories = await context.services.catalog.categories()
    chosen = next((known for known in categories if known.slug == category), None)
    if category and chosen is None:
        raise Problem("not-found", "There is no such category.")
    found = await context.services.catalog.products(category, words, after, PAGE)
    wanted = {"category": category, "q": words, "after": found.next}
    following = "/?" + urlencode({name: v for name, v in wanted.items() if v}) if found.next else None
    return await show(
        context,
        visitor,
        "home.html",
        categories=categories,
        chosen=chosen,
        words=words,
        page={"items": found.items, "next": following},
        levels=await if_there(_levels(context, [product.sku for product in found.items])),
    )


@router.get("/products/{sku}")
async def product_page(context: Ctx, visitor: Who, sku: str) -> HTMLResponse:
    """Show one product and its shelf."""
    product = await context.services.catalog.product(sku)
    categories = {known.slug: known.name for known in await if_there(context.services.catalog.categories()) or ()}
    levels = await if_there(_levels(context, [sku]))
    nothing = None if levels is None else StockLevel(sku=sku, available=0, reserved=0, sold=0)
    return await show(
        context,
        visitor,
        "product.html",
        product=product,
        category_name=categories.get(product.category, product.category),
        level=(levels or {}).get(sku, nothing),
    )


@router.get("/cart")
async def cart_page(context: Ctx, visitor: Who) -> HTMLResponse:
    """Show the cart."""
    return await _cart(context, visitor, None)


@router.post("/cart/items")
async def put_in(
    context: Ctx,
    visitor: Who,
    csrf: Annotated[str, Form()],
    sku: Annotated[str, Form()],
    quantity: Annotated[int, Form()],
) -> RedirectResponse:
    """Put something into the cart."""
    visitor.check_form(csrf)
    await context.services.carts.add(visitor.id, sku, quantity, None)
    return RedirectResponse("/cart", status_code=303)


@router.post("/cart/items/{line_id}")
async def change_line(
    context: Ctx,
    visitor: Who,
    line_id: str,
    csrf: Annotated[str, Form()],
    act: Annotated[str, Form()] = "update",
    quantity: Annotated[int, Form()] = 1,
    version: Annotated[int | None, Form()] = None,
) -> Response:
    """Change or take out a line."""
    visitor.check_form(csrf)
    try:
        if act == "remove":
            await context.services.carts.remove(visitor.id, line_id)
        else:
            await context.services.carts.update(visitor.id, line_id, quantity, version)
    except Problem as problem:
        if problem.kind.slug != "stale-version":
            raise
        return await _cart(context, visitor, "The cart changed in another window. Here it is as it is now.", 412)
    return RedirectResponse("/cart", status_code=303)


@router.post("/cart/clear")
async def empty_cart(context: Ctx, visitor: Who, csrf: Annotated[str, Form()]) -> RedirectResponse:
    """Empty the cart."""
    visitor.check_form(csrf)
    await context.services.carts.clear(visitor.id)
    return RedirectResponse("/cart", status_code=303)


@router.post("/cart/prices")
async def take_prices(context: Ctx, visitor: Who, csrf: Annotated[str, Form()]) -> RedirectResponse:
    """Agree to prices that changed since the things were put in."""
    visitor.check_form(csrf)
    await context.services.carts.reprice(visitor.id)
    return RedirectResponse("/cart", status_code=303)


@router.get("/checkout")
async def checkout_page(context: Ctx, visitor: Who) -> HTMLResponse:
    """Show what is about to be ordered, and the ways to pay."""
    return await _checkout(context, visitor, None)


def wish_in(
    method: Annotated[str, Form()],
    mode: Annotated[Mode | None, Form()] = None,
    coupon: Annotated[str, Form(max_length=40)] = "",
    use_credit: Annotated[bool, Form()] = False,
) -> checkout.Wish:
    """Read how somebody wants to check out. What saves something has a saga that leads, whatever was chosen."""
    code = coupon.replace("\0", "").strip().upper()
    saving = Saving(coupon=code or None, use_credit=use_credit)
    return checkout.Wish(method, Mode.ORCHESTRATED if saving.wanted else mode, saving)


@router.post("/checkout")
async def order(
    context: Ctx,
    visitor: Who,
    csrf: Annotated[str, Form()],
    checkout_id: Annotated[str, Form()],
    wish: Annotated[checkout.Wish, Depends(wish_in)],
    act: Annotated[str, Form()] = "order",
) -> Response:
    """Order what the page showed. Pressing twice, or in two windows that show the same cart, makes one order."""
    visitor.check_form(csrf)
    version = checkout.version_in(checkout_id)
    if act == "apply":
        return await _checkout(context, visitor, None, chosen=wish)
    try:
        placed = await checkout.place(context.services, visitor.id, checkout_id, wish, version)
    except Problem as problem:
        match problem.kind.slug:
            case "cart-ordered":
                return ordered_already(str(problem.extra["order"]))
            case "stale-version":
                return await _checkout(context, visitor, CHANGED, problem.kind.status, wish)
            case "coupon-refused":
                return await _checkout(context, visitor, None, problem.kind.status, wish)
            case "cart-empty" | "price-changed":
                return await _cart(context, visitor, problem.detail, problem.kind.status)
            case _:
                raise
    return RedirectResponse(f"/orders/{placed.id}", status_code=303)


@router.post("/show/compensation")
async def show_compensation(context: Ctx, visitor: Who, csrf: Annotated[str, Form()]) -> Response:
    """Place an order that cannot be paid, and lead to its story."""
    visitor.check_form(csrf)
    try:
        placed = await checkout.place_to_fail(context.services, visitor.id)
    except Problem as problem:
        match problem.kind.slug:
            case "cart-ordered":
                return ordered_already(str(problem.extra["order"]))
            case "price-changed":
                return await _cart(context, visitor, problem.detail, problem.kind.status)
            case _:
                raise
    return RedirectResponse(f"/orders/{placed.id}", status_code=303)


def ordered_already(order_id: str) -> RedirectResponse:
    """Lead to the order that was made of this cart before, whose page says so once."""
    path = f"/orders/{order_id}"
    there = RedirectResponse(path, status_code=303)
    there.set_cookie(ALREADY, "yes", max_age=60, path=path, httponly=True, samesite="lax")
    return there


async def show(context: Context, visitor: Visitor, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Make a page, with what the frame around it needs."""
    cart = values.get("cart") or await if_there(context.services.carts.get(visitor.id))
    frame = {
        "here": "",
        "cart_count": cart.count if cart else 0,
        "words": None,
        "token": visitor.form_token,
        "notice": None,
        "signed_in": visitor.user_id is not None,
    }
    page = context.templates.get_template(template).render(frame | values)
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store"})


async def _cart(context: Context, visitor: Visitor, notice: str | None, status: int = 200) -> HTMLResponse:
    cart = await context.services.carts.get(visitor.id)
    products = await if_there(products_in(context.services.catalog, cart))
    return await show(
        context,
        visitor,
        "cart.html",
        status,
        cart=cart,
        notice=notice or (NO_PRICES if products is None else None),
        products=products or {},
        repriced=bool(price_changes(cart, products or {})),
        here="cart",
    )


async def _checkout(
    context: Context, visitor: Visitor, notice: str | None, status: int = 200, chosen: checkout.Wish | None = None
) -> HTMLResponse:
    cart = await context.services.carts.get(visitor.id)
    if not cart.lines:
        return await _cart(context, visitor, notice or "Put something into the cart first.", status)
    chosen = chosen or checkout.Wish(checkout.METHODS[0].value, context.mode)
    cut, refused = await _reduced(context, visitor, cart, chosen.saving)
    seconds = int(context.window.total_seconds())
    window = f"{seconds // 60} minutes" if seconds >= 120 else f"{seconds} seconds"
    return await show(
        context,
        visitor,
        "checkout.html",
        status,
        cart=cart,
        checkout_id=checkout.key_for(cart),
        methods=checkout.METHODS,
        chosen=chosen,
        leads=chosen.mode or context.mode,
        cut=cut,
        refused=refused,
        wallet=await if_there(context.services.wallets.get(visitor.id)),
        modes=checkout.MODES,
        window=window,
        notice=notice,
        here="cart",
    )


async def _reduced(
    context: Context, visitor: Visitor, cart: Cart, saving: Saving
) -> tuple[Reduction | None, str | None]:
    """Say what the order would be reduced by, and why not by the coupon."""
    if not saving.wanted:
        return None, None
    try:
        return await context.services.checkouts.quote(visitor.id, cart.total, saving), None
    except Problem as problem:
        if problem.kind.slug != "coupon-refused":
            raise
        rest = saving.model_copy(update={"coupon": None})
        cut, _ = await _reduced(context, visitor, cart, rest)
        return cut, problem.detail


async def _levels(context: Context, skus: list[str]) -> dict[str, StockLevel]:
    return {level.sku: level for level in await context.services.inventory.levels(skus)}
