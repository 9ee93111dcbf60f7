"""A customer's way through the shop, from the first look to a payment that fails, whoever leads the checkout."""

import pytest


@pytest.mark.parametrize("mode", ["choreographed", "orchestrated"])
async def test_a_customer_s_way(shop, mode):
    """P1, P2, P5, H240: browse, fill the cart, check out, twice with one key; then a payment that fails."""
    alice = await shop.visitor()
    found = (await alice.get("/api/v1/products", params={"q": "stunt kite"})).json()["items"]
    assert [product["name"] for product in found] == ["Stunt kite"]
    sku, before = found[0]["sku"], await shop.shelf(alice, found[0]["sku"])
    cart = (await alice.post("/api/v1/cart/items", json={"sku": sku, "quantity": 2})).json()
    assert [(line["sku"], line["quantity"]) for line in cart["lines"]] == [(sku, 2)]

    ask = {"json": {"method": "succeed", "mode": mode}, "headers": {"Idempotency-Key": "first"}}
    ordered = await alice.post("/api/v1/checkout", **ask)
    assert (ordered.status_code, ordered.json()["status"], ordered.json()["total"]) == (202, "PENDING", cart["total"])
    order_id = ordered.json()["id"]
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    assert (await alice.get(f"/api/v1/orders/{order_id}")).json()["status"] == "CONFIRMED"
    assert await shop.shelf(alice, sku) == before | {"available": before["available"] - 2, "sold": 2}
    assert (await alice.get("/api/v1/cart")).json()["lines"] == []

    again = await alice.post("/api/v1/checkout", **ask)
    assert (again.status_code, again.json()) == (202, ordered.json())
    webhook = await alice.post("/webhooks/payments/mock", content=shop.posted[0][0], headers=shop.posted[0][1])
    assert (webhook.status_code, webhook.json()["first"]) == (200, False)
    assert len((await alice.get("/api/v1/orders")).json()["items"]) == 1
    assert shop.rows("bank", "select count(*) from charge") == [(1,)]

    bought = await shop.shelf(alice, sku)
    await alice.post("/api/v1/cart/items", json={"sku": sku, "quantity": 1})
    declined = await alice.post("/api/v1/checkout", json={"method": "fail", "mode": mode})
    heard = await shop.until(alice, declined.json()["id"], "order.canceled")
    assert "payment.failed" in heard
    ended = (await alice.get(f"/api/v1/orders/{declined.json()['id']}")).json()
    assert (ended["status"], ended["canceling"]) == ("CANCELED", "payment_failed")
    assert await shop.shelf(alice, sku) == bought
    assert [line["quantity"] for line in (await alice.get("/api/v1/cart")).json()["lines"]] == [1]
    captured = "select count(*) from charge where captured_at is not null and refund_key is null"
    assert shop.rows("bank", captured) == [(1,)]
