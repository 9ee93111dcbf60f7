"""One cart in several windows: it is paid once, and what is charged is what the button said."""

import asyncio
import re

import pytest

HTML = {"accept": "text/html"}
SKU = "LIGHT-01"


ALREADY = "This cart was ordered already."


async def put_in(client, quantity=1):
    cart = await client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": quantity})
    assert cart.status_code == 201
    return cart


async def tab(client):
    """Open the checkout in a window of its own; gives its form and what its button says."""
    page = (await client.get("/checkout", headers=HTML)).text
    form = {name: re.search(rf'name="{name}" value="([^"]*)"', page)[1] for name in ("csrf", "checkout_id")}
    return form | {"method": "silent"}, re.search(r"Order and pay (\S+?)</button>", page)[1]


async def orders(client):
    return (await client.get("/api/v1/orders")).json()["items"]


async def test_two_tabs_make_one_order(shop):
    """P2, H240: both windows show the same cart; the second button leads to the order that the first one made."""
    alice = await shop.visitor()
    await put_in(alice)
    (first, _), (second, _) = await tab(alice), await tab(alice)
    assert first["checkout_id"] != second["checkout_id"]
    made = await alice.post("/checkout", data=first)
    again = await alice.post("/checkout", data=second)
    assert (made.status_code, again.status_code) == (303, 303)
    assert made.headers["location"] == again.headers["location"]
    assert len(await orders(alice)) == 1
    page = made.headers["location"]
    said = [ALREADY in (await alice.get(page, headers={"accept": "text/html"})).text for _ in range(2)]
    assert said == [True, False]


async def test_the_same_button_twice_is_told_nothing(shop):
    """P2: one window, pressed twice: its order, and no word of another."""
    alice = await shop.visitor()
    await put_in(alice)
    form, _ = await tab(alice)
    made, again = await alice.post("/checkout", data=form), await alice.post("/checkout", data=form)
    assert made.headers["location"] == again.headers["location"]
    assert ALREADY not in (await alice.get(made.headers["location"], headers={"accept": "text/html"})).text


async def test_twenty_tabs_at_once_make_one_order(shop):
    """P2, H240: as many windows as there are, all at the same moment."""
    alice = await shop.visitor()
    await put_in(alice)
    forms = [(await tab(alice))[0] for _ in range(20)]
    answers = await asyncio.gather(*(alice.post("/checkout", data=form) for form in forms))
    [order] = await orders(alice)
    assert {answer.headers["location"] for answer in answers} == {f"/orders/{order['id']}"}
    assert shop.rows("orders", "select count(*) from ordered_cart") == [(1,)]


async def test_the_second_tab_long_after_the_first_is_done(shop):
    """P2, H240: the first window's order is paid and its cart is empty; the old window leads to that order."""
    alice = await shop.visitor()
    await put_in(alice)
    (first, _), (second, _) = await tab(alice), await tab(alice)
    made = await alice.post("/checkout", data=first | {"method": "succeed"})
    await shop.until(alice, made.headers["location"].rpartition("/")[2], "stock.sold", "cart.settled")
    again = await alice.post("/checkout", data=second)
    assert again.headers["location"] == made.headers["location"]
    assert len(await orders(alice)) == len(shop.posted) == 1


async def test_the_button_s_amount_is_the_amount_charged(shop):
    """H240: the other window put more in: nothing is ordered, and the page shows what it would cost now."""
    alice = await shop.visitor()
    await put_in(alice)
    form, said = await tab(alice)
    await put_in(alice, quantity=4)
    refused = await alice.post("/checkout", data=form, headers=HTML)
    assert refused.status_code == 412
    assert "changed in another window" in refused.text
    assert re.search(r'value="silent" checked', refused.text)
    assert await orders(alice) == []
    fresh, now = await tab(alice)
    assert f"Order and pay {now}</button>" in refused.text
    assert now != said
    made = await alice.post("/checkout", data=fresh)
    order = (await alice.get("/api/v1" + made.headers["location"])).json()
    assert f"€{order['total']['amount']}" == now


async def test_the_other_window_emptied_the_cart(shop):
    """H240: there is nothing to order any more, and the page says why."""
    alice = await shop.visitor()
    await put_in(alice)
    form, _ = await tab(alice)
    assert (await alice.delete("/api/v1/cart")).status_code == 204
    refused = await alice.post("/checkout", data=form, headers=HTML)
    assert (refused.status_code, "changed in another window" in refused.text) == (412, True)
    assert await orders(alice) == []


async def test_programs_are_told_which_order_it_is(shop):
    """P2, H240: another key for the same cart makes no second order; with If-Match a changed cart is refused."""
    alice = await shop.visitor()
    old = (await put_in(alice)).headers["etag"]
    current = (await put_in(alice)).headers["etag"]
    body = {"method": "silent"}
    stale = await alice.post("/api/v1/checkout", json=body, headers={"If-Match": old})
    assert (stale.status_code, stale.json()["type"]) == (412, "/api/v1/problems/stale-version")
    keys = [{"Idempotency-Key": key, "If-Match": current} for key in ("a", "b")]
    made, other = [await alice.post("/api/v1/checkout", json=body, headers=key) for key in keys]
    assert made.status_code == 202
    assert (other.status_code, other.json()["type"]) == (409, "/api/v1/problems/cart-ordered")
    assert other.json()["order"] == made.json()["id"]
    assert (await alice.post("/api/v1/checkout", json=body, headers=keys[0])).json() == made.json()


async def test_a_canceled_order_makes_room(shop):
    """P4, H240: the bank said no; the same cart, unchanged, is ordered again, and again only once."""
    alice = await shop.visitor()
    await put_in(alice)
    (first, _), (second, _), (third, _) = await tab(alice), await tab(alice), await tab(alice)
    declined = await alice.post("/checkout", data=first | {"method": "fail"})
    await shop.until(alice, declined.headers["location"].rpartition("/")[2], "order.canceled")
    made = [await alice.post("/checkout", data=form) for form in (second, third, first)]
    places = [answer.headers["location"] for answer in made]
    assert places[0] == places[1] != places[2] == declined.headers["location"]
    assert len(await orders(alice)) == 2


async def test_agreeing_to_no_new_price_leaves_the_cart_as_it_was(shop):
    """H240: a version is what was seen; a click that changes nothing must not make room for a second order."""
    alice = await shop.visitor()
    before = await put_in(alice)
    after = await alice.post("/api/v1/cart/prices")
    assert after.headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize("key", ["", "x", "1", "-1.a", "99999999999999999999.a", "1." + "a" * 80])
async def test_a_form_that_no_page_made_is_refused(shop, key):
    """H240: the checkout's id says which cart was seen; without that nothing is ordered."""
    alice = await shop.visitor()
    await put_in(alice)
    form, _ = await tab(alice)
    assert (await alice.post("/checkout", data=form | {"checkout_id": key})).status_code == 422
    assert await orders(alice) == []


@pytest.mark.parametrize("tag", ['"v99999999999999999999"', '"v-1"', "junk"])
async def test_a_version_that_never_was_is_refused(shop, tag):
    alice = await shop.visitor()
    await put_in(alice)
    assert (await alice.post("/api/v1/checkout", json={}, headers={"If-Match": tag})).status_code == 412
