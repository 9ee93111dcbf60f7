"""A checkout with a coupon and credit: stock, coupon and wallet hold together, or let go together."""

import asyncio
import re

import pytest

from shop.catalog.seed import products
from shop.orders.api import OrdersApi

SKU = "PLAY-01"
PLENTY = next(product.sku for product in products(42) if product.stock == 40)


async def order(shop, client, method="succeed", quantity=1, **saving):
    """Put something into the cart and order it; gives the order."""
    added = await client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": quantity})
    assert added.status_code == 201, added.text
    ordered = await client.post("/api/v1/checkout", json={"method": method, **saving})
    assert ordered.status_code == 202, ordered.text
    return ordered.json()


def money(cents):
    return {"amount": f"{cents // 100}.{cents % 100:02}", "currency": "EUR"}


def cents(told):
    whole, _, part = told["amount"].partition(".")
    return int(whole) * 100 + int(part)


def check_books(shop):
    """What holds whenever nothing is under way, whatever has happened."""
    assert shop.rows("wallet", "select sum(minor) from entry group by transfer_id having sum(minor) <> 0") == []
    sums = dict(shop.rows("wallet", "select account, sum(minor) from entry group by account"))
    for owner, available, held in shop.rows("wallet", "select owner, available, held from wallet"):
        assert (available, held) == (sums[f"{owner}/available"], sums.get(f"{owner}/held", 0))
        assert held == 0
    counted = "select c.code, c.held, c.used, (select count(*) from coupon_hold h where h.code = c.code and h.state = "
    for code, held, used, people in shop.rows("pricing", f"{counted}'used') from coupon c"):
        assert (held, used) == (0, people), code
    assert shop.rows("inventory", "select sku from stock where reserved <> 0") == []
    ledger = "select coalesce(sum(case movement when 'sell' then quantity end), 0) from ledger"
    assert shop.rows("inventory", "select sum(sold) from stock") == shop.rows("inventory", ledger)


async def settled(shop, client, order_id):
    heard = await shop.until(client, order_id, "stock.sold", "coupon.used", "credit.spent", "cart.settled")
    check_books(shop)
    return heard


async def test_all_three_hold_and_are_confirmed(shop):
    """P4, P5, H392: the bank is asked for the total less coupon and credit; what was held is used and spent, once."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    ordered = await order(shop, alice, quantity=3, coupon="WELCOME10", use_credit=True)
    cut, total = ordered["reduction"], cents(ordered["total"])
    assert ordered["mode"] == "orchestrated"
    assert cents(cut["discount"]) == total // 10
    assert cents(cut["credit"]) == 2000
    assert cents(cut["to_pay"]) == total - total // 10 - 2000
    heard = await settled(shop, alice, ordered["id"])
    assert {"reservation.made", "coupon.held", "credit.held"} == set(heard[1:4])
    assert shop.rows("bank", "select amount_minor from charge") == [(cents(cut["to_pay"]),)]
    assert (await alice.get("/api/v1/wallet")).json() == {"available": money(0), "held": money(0)}
    assert await shop.shelf(alice, SKU) == before | {"available": before["available"] - 3, "sold": 3}
    assert shop.rows("pricing", "select code, state from coupon_hold") == [("WELCOME10", "used")]


ENTRY = "insert into entry (transfer_id, account, minor, what, at) values ('t', '{}', {}, 'welcome', '2026-01-01')"
NO_LONGER = {
    "coupon": ["update coupon set most = 0 where code = 'WELCOME10'"],
    "credit": [
        "insert into wallet (owner, available, held) values ('{visitor}', 5, 0)",
        ENTRY.format("shop/promotions", -5),
        ENTRY.format("{visitor}/available", 5),
    ],
    "out_of_stock": ["update stock set available = 0"],
}
KEPT_BY = {"coupon": "pricing", "credit": "wallet", "out_of_stock": "inventory"}


@pytest.mark.parametrize("reason", NO_LONGER)
async def test_one_that_refuses_cancels_the_others(shop, monkeypatch, reason):
    """P4, H393: one was there when it was quoted, and is not when it is tried: the others go back, no bank is asked."""
    place = OrdersApi.place

    async def place_later(self, order):
        for change in NO_LONGER[reason]:
            await shop.change(KEPT_BY[reason], change.format(visitor=order.visitor_id))
        return await place(self, order)

    monkeypatch.setattr(OrdersApi, "place", place_later)
    alice = await shop.visitor()
    order_id = (await order(shop, alice, coupon="WELCOME10", use_credit=True))["id"]
    heard = await shop.until(alice, order_id, "order.canceled")
    assert "payment.session_opened" not in heard
    held, back = ({each for each in heard if each.endswith(end)} for end in ((".held", ".made"), ".released"))
    assert {each.partition(".")[0] for each in held} == {each.partition(".")[0] for each in back}
    found = (await alice.get(f"/api/v1/checkout/{order_id}")).json()
    assert (found["status"], found["reason"]) == ("FAILED", reason)
    assert shop.rows("bank", "select count(*) from charge") == [(0,)]
    check_books(shop)


async def test_three_coupons_for_eight_people(shop):
    """P2, P5, H393: however many want it at once, it is used three times at most, and by nobody twice."""
    people = [await shop.visitor() for _ in range(8)]

    async def buy(client):
        await client.post("/api/v1/cart/items", json={"sku": PLENTY, "quantity": 3})
        body = {"method": "succeed", "coupon": "LAST3", "use_credit": True}
        answer = await client.post("/api/v1/checkout", json=body)
        if answer.status_code == 409:
            assert answer.json()["type"].endswith("/coupon-refused")
            return
        ends = shop.until(client, answer.json()["id"], "stock.sold", "coupon.used", "credit.spent", "cart.settled")
        failed = shop.until(client, answer.json()["id"], "order.canceled")
        _, other = await asyncio.wait(map(asyncio.ensure_future, (ends, failed)), return_when=asyncio.FIRST_COMPLETED)
        for each in other:
            each.cancel()

    await asyncio.gather(*map(buy, people))
    check_books(shop)
    assert shop.rows("pricing", "select used from coupon where code = 'LAST3'") == [(3,)]


async def test_a_person_uses_a_coupon_once(shop):
    """H393: while the first order is under way, and after it; when it failed, the coupon is theirs again."""
    alice = await shop.visitor()
    first = await order(shop, alice, "silent", coupon="WELCOME10")
    await shop.until(alice, first["id"], "coupon.held")
    wish = {"coupon": "WELCOME10"}
    refused = await alice.post("/api/v1/checkout/savings", json=wish)
    assert (refused.status_code, refused.json()["title"]) == (409, "The coupon cannot be used")
    await shop.until(alice, first["id"], "payment.session_opened")
    await alice.post(f"/api/v1/orders/{first['id']}/cancel")
    await shop.until(alice, first["id"], "coupon.released", "order.canceled")
    assert (await alice.post("/api/v1/checkout/savings", json=wish)).status_code == 200
    check_books(shop)


async def test_credit_may_pay_for_all_of_it(shop):
    """P4, H392: then no bank is asked."""
    await shop.change("catalog", f"update product set price_minor = 700 where sku = '{SKU}'")
    alice = await shop.visitor()
    ordered = await order(shop, alice, use_credit=True)
    assert ordered["reduction"]["to_pay"] == money(0)
    await shop.until(alice, ordered["id"], "stock.sold", "credit.spent", "cart.settled")
    assert (await alice.get("/api/v1/wallet")).json()["available"] == money(1300)
    assert shop.rows("bank", "select count(*) from charge") == [(0,)]
    check_books(shop)


async def test_only_a_saga_gives_a_discount(shop):
    """H393: events alone cannot take a coupon back from three services: who asks for both is told so."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    asked = {"mode": "choreographed", "coupon": "WELCOME10"}
    answer = await alice.post("/api/v1/checkout", json=asked)
    assert (answer.status_code, "orchestrated" in answer.json()["detail"]) == (422, True)
    unknown = await alice.post("/api/v1/checkout", json={"coupon": "NONE"})
    assert (unknown.status_code, unknown.json()["detail"]) == (409, "NONE cannot be used: there is no such coupon.")
    assert (await alice.get("/api/v1/orders")).json()["items"] == []


async def test_a_plain_order_asks_nobody_more(shop):
    """H392: without a coupon and credit nothing is reserved by TCC, and nothing is written for it."""
    alice = await shop.visitor()
    order_id = (await order(shop, alice, mode="orchestrated"))["id"]
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    for service in ("inventory", "pricing", "wallet"):
        assert shop.rows(service, "select count(*) from txp_tcc_barrier") == [(0,)]
    [(payload,)] = shop.rows("gateway", "select payload from timeline where type = 'checkout.requested'")
    assert "reduction" not in payload


async def test_the_pages_sell_with_a_coupon_and_without_a_script(shop):
    """H392: the form alone applies a coupon, says why one is refused, and orders at the amount that it showed."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 2})
    form = fields_of((await alice.get("/checkout")).text)
    refused = await alice.post("/checkout", data=form | {"coupon": "nothing", "act": "order"})
    assert (refused.status_code, "there is no such coupon" in refused.text) == (409, True)
    applied = await alice.post("/checkout", data=form | {"coupon": "welcome10", "use_credit": "true", "act": "apply"})
    assert applied.status_code == 200
    shown = re.search(r"Order and pay €([\d.]+)", applied.text)[1]
    data = fields_of(applied.text) | {"coupon": "welcome10", "use_credit": "true", "act": "order"}
    ordered = await alice.post("/checkout", data=data)
    assert ordered.status_code == 303
    order_id = ordered.headers["location"].rpartition("/")[2]
    await settled(shop, alice, order_id)
    page = (await alice.get(f"/orders/{order_id}")).text
    assert f"€{shown} to pay" in page
    for says in ("We set your coupon WELCOME10 aside", "of your credit is spent", "Use what was set aside"):
        assert says in page


def fields_of(page):
    """Read what a checkout page's form carries, with a bank that says yes."""
    names = ("csrf", "checkout_id")
    return {"method": "succeed"} | {name: re.search(f'name="{name}" value="([^"]+)"', page)[1] for name in names}
