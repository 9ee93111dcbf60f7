"""The storefront without a script: forms, links, and a stream."""

import re

import pytest


def field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return found[1]


async def read(client, path, status=200):
    answer = await client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, answer.text
    return answer.text


async def put_in(client, sku="LIGHT-01", quantity="1"):
    page = await read(client, f"/products/{sku}")
    form = {"csrf": field(page, "csrf"), "sku": sku, "quantity": quantity}
    answer = await client.post("/cart/items", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/cart")


async def test_buying_without_a_script(shop):
    """From the first page to a confirmed order with nothing but links and forms."""
    alice = await shop.visitor()
    home = await read(alice, "/")
    assert "Quiet Hour headphones" in home
    await put_in(alice, quantity="2")
    assert "Anglepoint lamp" in await read(alice, "/cart")
    checkout = await read(alice, "/checkout")
    form = {"csrf": field(checkout, "csrf"), "checkout_id": field(checkout, "checkout_id"), "method": "succeed"}
    ordered = await alice.post("/checkout", data=form)
    assert ordered.status_code == 303
    again = await alice.post("/checkout", data=form)
    assert again.headers["location"] == ordered.headers["location"]
    order_id = ordered.headers["location"].rpartition("/")[2]
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    page = await read(alice, f"/orders/{order_id}")
    for words in ("Confirmed", "You ordered 2 × Anglepoint lamp", "We reserved", "Engineer"):
        assert words in page
    third = await alice.post("/checkout", data=form)
    assert third.headers["location"] == ordered.headers["location"]
    assert "Confirmed" in await read(alice, "/orders")


async def test_choosing_who_leads(shop):
    """The checkout page asks who leads, and an order's page draws the saga if one does; the rest is the same."""
    alice = await shop.visitor()
    await put_in(alice)
    checkout = await read(alice, "/checkout")
    assert re.search(r'value="choreographed" checked', checkout)
    form = {"csrf": field(checkout, "csrf"), "checkout_id": field(checkout, "checkout_id"), "method": "succeed"}
    ordered = await alice.post("/checkout", data=form | {"mode": "orchestrated"})
    page = ordered.headers["location"]
    await shop.until(alice, page.rpartition("/")[2], "stock.sold", "cart.settled")
    assert "One service leads this checkout" in await read(alice, page)
    assert (await alice.post("/checkout", data=form | {"mode": "nobody"})).status_code == 422
    other = await shop.buy(alice, "silent")
    assert "One service leads" not in await read(alice, f"/orders/{other}")


async def test_a_compensation_for_the_asking(shop):
    """Whatever is in the cart, or something from the shelf: ordered, declined, undone; again as often as one likes."""
    alice = await shop.visitor()
    token = field(await read(alice, "/"), "csrf")
    assert (await alice.post("/show/compensation", data={"csrf": "x"})).status_code == 403
    for _ in range(2):
        shown = await alice.post("/show/compensation", data={"csrf": token})
        page = shown.headers["location"]
        await shop.until(alice, page.rpartition("/")[2], "order.canceled")
        assert "Stock put back" in await read(alice, page)
    assert (await alice.get("/api/v1/cart")).json()["lines"][0]["quantity"] == 1
    assert shop.rows("inventory", "select sum(reserved), sum(sold) from stock") == [(0, 0)]


async def test_changing_the_cart(shop):
    alice = await shop.visitor()
    await put_in(alice)
    page = await read(alice, "/cart")
    line = re.search(r'action="(/cart/items/[^"]+)"', page)[1]
    form = {"csrf": field(page, "csrf"), "version": field(page, "version"), "quantity": "3", "act": "update"}
    assert (await alice.post(line, data=form)).status_code == 303
    stale = await alice.post(line, data=form | {"quantity": "9"})
    assert stale.status_code == 412
    assert "changed in another window" in stale.text
    assert (await alice.post(line, data=form | {"act": "remove"})).status_code == 303
    assert "Nothing in here yet" in await read(alice, "/cart")


async def test_a_changed_price_is_shown_before_anything_is_ordered(shop):
    """The page shows both prices and asks; only then can it be ordered."""
    alice = await shop.visitor()
    await put_in(alice)
    checkout = await read(alice, "/checkout")
    await shop.reprice("LIGHT-01", 12345)
    form = {"csrf": field(checkout, "csrf"), "checkout_id": field(checkout, "checkout_id"), "method": "succeed"}
    refused = await alice.post("/checkout", data=form, headers={"accept": "text/html"})
    assert refused.status_code == 409
    assert "now €123.45" in refused.text
    assert "To the checkout" not in refused.text
    assert (await alice.post("/cart/prices", data={"csrf": form["csrf"]})).status_code == 303
    cart = await read(alice, "/cart")
    assert "€123.45 each" in cart
    assert "To the checkout" in cart
    old = await alice.post("/checkout", data=form, headers={"accept": "text/html"})
    assert (old.status_code, "Order and pay €123.45" in old.text) == (412, True)
    fresh = form | {"checkout_id": field(old.text, "checkout_id")}
    assert (await alice.post("/checkout", data=fresh)).headers["location"].startswith("/orders/")


async def test_what_is_sold_out_cannot_be_put_in_by_the_page(shop):
    anybody = await shop.visitor()
    await shop.change("inventory", "update stock set available = 0, sold = 3 where sku = 'LIGHT-01'")
    page = await read(anybody, "/products/LIGHT-01")
    assert "Put into the cart" not in page
    assert "found its home" in page


async def test_forms_of_others_are_refused(shop):
    """A form that another visitor's page made, or that nobody made, changes nothing."""
    alice, eve = await shop.visitor(), await shop.visitor()
    token = field(await read(eve, "/products/LIGHT-01"), "csrf")
    for csrf in (token, "", "nonsense"):
        answer = await alice.post("/cart/items", data={"csrf": csrf, "sku": "LIGHT-01", "quantity": "1"})
        assert answer.status_code in (403, 422)
    assert "Nothing in here yet" in await read(alice, "/cart")


async def test_searching(shop):
    anybody = await shop.visitor()
    assert "Stunt kite" in await read(anybody, "/?q=kite")
    assert "Nothing by that name" in await read(anybody, "/?q=%3Cscript%3E")
    assert "<script>" not in await read(anybody, "/?q=%3Cscript%3E")
    assert "Day backpack" in await read(anybody, "/?category=bags")
    await read(anybody, "/?category=boats", status=404)


async def test_what_is_not_there_has_a_page_too(shop):
    anybody = await shop.visitor()
    assert "Not found" in await read(anybody, "/products/NONE-1", status=404)
    lost = await read(anybody, "/nowhere", status=404)
    assert "Not found" in lost
    assert "There is no such thing" in lost
    assert "This is no place in the catalogue" in await read(anybody, "/?after=x", status=422)


async def test_the_api_is_listed(shop):
    """Every route, with what it does; without a script, so without a network."""
    page = await read(await shop.visitor(), "/api/v1")
    for words in ("/api/v1/checkout", "/webhooks/payments/{provider}", "Order what is in the cart", "Cart"):
        assert words in page
    assert "<script" not in page


async def test_nothing_but_our_own_files_may_run(shop):
    """No inline script or style, and a policy that forbids them."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "silent")
    for path in ("/", "/cart", f"/orders/{order_id}", "/orders", "/products/LIGHT-01"):
        answer = await alice.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|javascript:", answer.text)


@pytest.mark.parametrize("name", ["shop.css", "timeline.css", "shop.js", "art.svg", "icon.svg"])
async def test_the_files_are_there(shop, name):
    anybody = await shop.visitor()
    assert (await anybody.get(f"/static/{name}")).status_code == 200
