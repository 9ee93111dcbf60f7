"""The three flows of the shop, and the ways in which an order may end."""

import asyncio
from datetime import timedelta

WAY = ["order.created", "stock.reserved", "payment.session_opened", "payment.captured", "order.paid"]


async def test_an_order_sets_stock_aside(shop):
    """P1, P5: order.created leads to stock.reserved and a payment session, and the shelf shows it."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "silent", quantity=2)
    heard = await shop.until(alice, order_id, "payment.session_opened")
    assert heard == WAY[:3]
    after = await shop.shelf(alice, "PLAY-01")
    assert after == before | {"available": before["available"] - 2, "reserved": 2}
    assert (await alice.get(f"/api/v1/orders/{order_id}")).json()["status"] == "PENDING"


async def test_a_payment_confirms_the_order(shop):
    """P1, P2, P3: the bank's webhook leads to PAID, CONFIRMED, sold stock and a cart without what was bought."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "succeed", quantity=2)
    heard = await shop.until(alice, order_id, "stock.sold", "cart.settled")
    assert heard[:6] == [*WAY, "order.confirmed"]
    assert sorted(heard[6:]) == ["cart.settled", "stock.sold"]
    after = await shop.shelf(alice, "PLAY-01")
    assert after == before | {"available": before["available"] - 2, "sold": 2}
    assert (await alice.get(f"/api/v1/orders/{order_id}")).json()["status"] == "CONFIRMED"
    assert (await alice.get("/api/v1/cart")).json()["lines"] == []
    number = shop.number(order_id)
    movements = shop.rows("inventory", f"select movement, quantity from ledger where order_id = '{number}'")
    assert movements == [("reserve", 2), ("sell", 2)]


async def test_the_time_to_pay_runs_out(hasty_shop):
    """P4, P7: without an answer a durable timer calls the order off, and the stock goes back."""
    shop, alice = hasty_shop, await hasty_shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "silent")
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard[3:] == ["order.cancel_requested", "stock.released", "order.canceled"]
    assert await shop.shelf(alice, "PLAY-01") == before
    order = (await alice.get(f"/api/v1/orders/{order_id}")).json()
    assert (order["status"], order["canceling"]) == ("CANCELED", "payment_window")
    assert len((await alice.get("/api/v1/cart")).json()["lines"]) == 1


async def test_a_declined_payment_puts_everything_back(shop):
    alice = await shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "fail")
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard[3:] == ["payment.failed", "order.cancel_requested", "stock.released", "order.canceled"]
    assert await shop.shelf(alice, "PLAY-01") == before


async def test_what_is_not_there_is_not_sold(shop):
    """P5: an order for more than there is is canceled, and nothing is set aside or charged."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "succeed", quantity=before["available"] + 1)
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard == ["order.created", "stock.rejected", "order.canceled"]
    assert await shop.shelf(alice, "PLAY-01") == before
    assert shop.posted == []


async def test_the_last_ones_go_to_one_of_many(shop):
    """P5, I7: twenty want all there is at once; one gets them, nobody gets half."""
    visitors = [await shop.visitor() for _ in range(20)]
    everything = (await shop.shelf(visitors[0], "PLAY-01"))["available"]
    orders = await asyncio.gather(*(shop.buy(who, "succeed", quantity=everything) for who in visitors))
    for who, order_id in zip(visitors, orders, strict=True):
        with shop.bell.listening(order_id) as ear:
            async with asyncio.timeout(120):
                while not {"stock.sold", "order.canceled"} & set(await shop.heard(who, order_id)):
                    await ear.wait(timedelta(seconds=1))
    statuses = [
        (await who.get(f"/api/v1/orders/{o}")).json()["status"] for who, o in zip(visitors, orders, strict=True)
    ]
    assert sorted(statuses) == ["CANCELED"] * 19 + ["CONFIRMED"]
    assert await shop.shelf(visitors[0], "PLAY-01") == {"available": 0, "reserved": 0, "sold": everything}


async def test_calling_it_off(shop):
    """The customer may call an order off before it is paid, once; afterwards there is nothing to call off."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "silent")
    await shop.until(alice, order_id, "payment.session_opened")
    answers = [(await alice.post(f"/api/v1/orders/{order_id}/cancel")).status_code for _ in range(3)]
    assert answers == [202, 202, 202]
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard.count("order.cancel_requested") == 1
    assert await shop.shelf(alice, "PLAY-01") == before
    paid = await shop.buy(alice, "succeed")
    await shop.until(alice, paid, "order.confirmed")
    assert (await alice.post(f"/api/v1/orders/{paid}/cancel")).status_code == 409


async def test_what_was_added_meanwhile_stays_in_the_cart(shop):
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "succeed")
    await alice.post("/api/v1/cart/items", json={"sku": "PLAY-01", "quantity": 2})
    await alice.post("/api/v1/cart/items", json={"sku": "PLAY-02", "quantity": 1})
    await shop.until(alice, order_id, "cart.settled")
    lines = (await alice.get("/api/v1/cart")).json()["lines"]
    assert {line["sku"]: line["quantity"] for line in lines} == {"PLAY-01": 2, "PLAY-02": 1}


async def test_the_shop_goes_on_where_it_was(tmp_path, open_shop):
    """P1, P7: closed while an order waits, and opened again on the same folder: the timer still rings."""
    async with open_shop(tmp_path, SHOP_PAYMENT_WINDOW="1") as shop:
        alice = await shop.visitor()
        order_id = await shop.buy(alice, "silent")
        cookies = dict(alice.cookies)
    async with open_shop(tmp_path) as shop:
        alice = await shop.visitor()
        alice.cookies.update(cookies)
        heard = await shop.until(alice, order_id, "order.canceled")
    # The payment goes its own way: on a busy machine it asks the bank in between.
    assert ("stock.released" in heard, heard[-1]) == (True, "order.canceled")


async def test_events_have_one_envelope_and_a_cause(shop):
    """Each event of an order carries the id of the request that placed it as correlation, and its cause."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": "PLAY-01", "quantity": 1})
    ordered = await alice.post("/api/v1/checkout", json={"method": "succeed"})
    order_id = ordered.json()["id"]
    await shop.until(alice, order_id, "stock.sold")
    entries = (await alice.get(f"/api/v1/orders/{order_id}/timeline")).json()["entries"]
    by_type = {entry["type"]: entry for entry in entries}
    for effect, cause in [
        ("stock.reserved", "order.created"),
        ("payment.session_opened", "stock.reserved"),
        ("order.paid", "payment.captured"),
        ("order.confirmed", "order.paid"),
        ("stock.sold", "order.confirmed"),
    ]:
        assert by_type[effect]["headers"]["causation-id"] == by_type[cause]["message_id"]
    assert len({entry["message_id"] for entry in entries}) == len(entries)
    assert not any("{{" in entry["says"] for entry in entries)
    assert {entry["headers"]["correlation-id"] for entry in entries} == {ordered.headers["x-request-id"]}
