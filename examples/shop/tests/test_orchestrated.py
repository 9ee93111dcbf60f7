"""The checkout that a saga leads: its way, its ends, and what each failure leaves behind."""

import asyncio
import functools
from datetime import UTC, datetime, timedelta

import pytest

from shop.calls import DEADLINE
from shop.catalog.seed import products
from shop.checkout import saga
from shop.checkout.saga import CheckoutSaga
from shop.events import CheckoutCompleted
from shop.inventory.api import InventoryApi
from shop.payment.api import PaymentsApi
from shop.rpc.travel import time_left

SKU = "PLAY-01"
PLENTY = next(product.sku for product in products(42) if product.stock == 40)


def soaked(*values):
    """What is run in the soak alone: the gate has one of each kind."""
    marks = [pytest.mark.soak]
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks) for value in values]


async def lead(shop, client, method="succeed", quantity=1, sku=SKU):
    """Put something into the cart and order it, led by a saga; gives the order's id."""
    added = await client.post("/api/v1/cart/items", json={"sku": sku, "quantity": quantity})
    assert added.status_code == 201, added.text
    ordered = await client.post("/api/v1/checkout", json={"method": method, "mode": "orchestrated"})
    assert ordered.status_code == 202, ordered.text
    assert ordered.json()["mode"] == "orchestrated"
    return ordered.json()["id"]


async def session_of(client, order_id):
    found = (await client.get(f"/api/v1/checkout/{order_id}")).json()
    return found["status"], found["reason"]


async def order_of(client, order_id):
    found = (await client.get(f"/api/v1/orders/{order_id}")).json()
    return found["status"], found["canceling"]


@pytest.fixture
def bring_again(shop):
    """Send an order's CheckoutCompleted again, as new messages."""

    async def send(order_id, times):
        [(payload,)] = shop.rows("gateway", "select payload from timeline where type = 'checkout.completed'")
        event, app = CheckoutCompleted.model_validate_json(payload), shop.web.state.context.app
        assert event.order_id == shop.number(order_id)
        async with app.transaction() as session:
            for _ in range(times):
                app.outbox.add(session, event)

    return send


@pytest.mark.soak
async def test_a_saga_leads_a_checkout_to_its_end(shop):
    """P1, P2, P3: reserve, charge, the bank's webhook, complete; the event confirms the order and clears the cart."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice, quantity=2)
    heard = await shop.until(alice, order_id, "stock.sold", "cart.settled")
    assert heard[:5] == [
        "checkout.requested",
        "reservation.made",
        "payment.session_opened",
        "payment.captured",
        "checkout.completed",
    ]
    assert sorted(heard[5:]) == ["cart.settled", "order.confirmed", "stock.sold"]
    assert await shop.shelf(alice, SKU) == before | {"available": before["available"] - 2, "sold": 2}
    assert await session_of(alice, order_id) == ("COMPLETED", None)
    assert await order_of(alice, order_id) == ("CONFIRMED", None)
    assert (await alice.get("/api/v1/cart")).json()["lines"] == []


@pytest.mark.soak
async def test_a_declined_payment_is_compensated(shop):
    """P1, P5: the bank says no: the stock goes back, the session has failed, the cart stays."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice, "fail")
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard[3:] == ["payment.failed", "reservation.released", "checkout.failed", "order.canceled"]
    assert await shop.shelf(alice, SKU) == before
    assert await session_of(alice, order_id) == ("FAILED", "payment_failed")
    assert await order_of(alice, order_id) == ("CANCELED", "payment_failed")
    assert len((await alice.get("/api/v1/cart")).json()["lines"]) == 1


@pytest.mark.soak
async def test_what_is_not_there_is_not_sold(shop):
    """P5: too much is asked for: nothing is set aside or charged, and only the session is undone."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice, quantity=before["available"] + 1)
    heard = await shop.until(alice, order_id, "order.canceled")
    assert heard == ["checkout.requested", "reservation.refused", "checkout.failed", "order.canceled"]
    assert await session_of(alice, order_id) == ("FAILED", "out_of_stock")
    assert await shop.shelf(alice, SKU) == before
    assert shop.rows("bank", "select count(*) from charge") == [(0,)]


@pytest.mark.parametrize("step", ["look_for", *soaked("open_session", "reserve", "complete_session")])
async def test_each_step_may_fail_for_a_while(shop, monkeypatch, step):
    """P1, P2, P7: what fails twice is tried again, and is done once; a lost charge is looked for by its key."""
    failures = fail_at(monkeypatch, step, times=2)
    if step == "look_for":
        fail_at(monkeypatch, "charge", times=1)
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice)
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    assert failures == []
    assert await shop.shelf(alice, SKU) == before | {"available": before["available"] - 1, "sold": 1}
    assert shop.rows("bank", "select count(*) from charge") == [(1,)]


@pytest.mark.soak
@pytest.mark.parametrize("step", ["release", "refund", "fail_session"])
async def test_each_compensation_may_fail_for_a_while(shop, monkeypatch, step):
    """P1, P7: an undoing is tried until it succeeds; the order is not told canceled before all is undone."""
    failures = fail_at(monkeypatch, step, times=2)
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice, "fail")
    heard = await shop.until(alice, order_id, "order.canceled")
    assert failures == []
    assert heard[-3:] == ["reservation.released", "checkout.failed", "order.canceled"]
    assert await shop.shelf(alice, SKU) == before


def fail_at(monkeypatch, step, times):
    """Let a step fail so often after it has done its work; gives the failures that are left."""
    left = ["failure"] * times
    owner = CheckoutSaga if hasattr(CheckoutSaga, step) else saga
    work = getattr(owner, step)

    @functools.wraps(work)
    async def failing(*args):
        result = await work(*args)
        if left:
            left.pop()
            raise ConnectionError("the answer is lost")
        return result

    monkeypatch.setattr(owner, step, failing)
    return left


@pytest.mark.soak
@pytest.mark.parametrize(("api", "method"), [(InventoryApi, "reserve"), (PaymentsApi, "charge")])
async def test_it_asks_over_the_network_also_in_one_process(shop, monkeypatch, api, method):
    """H345: what the saga asks for comes in by gRPC, with a deadline; in the one-process shop, too."""
    work, left = getattr(api, method), []

    async def noting(*args, **kwargs):
        left.append(time_left())
        return await work(*args, **kwargs)

    monkeypatch.setattr(api, method, noting)
    alice = await shop.visitor()
    await shop.until(alice, await lead(shop, alice), "stock.sold")
    assert len(left) == 1
    assert 0 < left[0] < DEADLINE


async def test_fifty_posts_of_one_key_make_one_session(shop):
    """P2, H240: unique by visitor and key: one order, one session, one saga, one charge."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    ask = {"json": {"method": "succeed", "mode": "orchestrated"}, "headers": {"Idempotency-Key": "k"}}

    async def post():
        while (answer := await alice.post("/api/v1/checkout", **ask)).status_code == 409:
            assert "Retry-After" in answer.headers, "the first is not answered yet"
        return answer.json()["id"]

    [order_id] = set(await asyncio.gather(*(post() for _ in range(50))))
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    for service, table in (("checkout", "checkout_session"), ("checkout", "txp_saga"), ("bank", "charge")):
        assert shop.rows(service, f"select count(*) from {table}") == [(1,)]


@pytest.mark.soak
async def test_one_cart_in_two_windows_of_either_kind(shop):
    """P2, H240: whoever leads it, of a cart there is one order at a time."""
    alice = await shop.visitor()
    order_id = await lead(shop, alice, "silent")
    other = await alice.post("/api/v1/checkout", json={"mode": "choreographed"})
    assert (other.status_code, other.json()["order"]) == (409, order_id)


async def test_a_completed_checkout_told_a_hundred_times(shop, bring_again):
    """P2: consumers do it once, also where it comes under other message ids; a newer cart is not cleared again."""
    alice = await shop.visitor()

    async def put_in_more():
        shop.meanwhile = None
        await alice.post("/api/v1/cart/items", json={"sku": PLENTY, "quantity": 3})

    shop.meanwhile = put_in_more  # into the same line, while the bank's answer is on its way
    order_id = await lead(shop, alice, sku=PLENTY)
    await shop.until(alice, order_id, "stock.sold", "cart.settled")
    await bring_again(order_id, 100)
    with shop.bell.listening(order_id) as ear:
        while shop.rows("gateway", "select count(*) from txp_outbox") != [(0,)]:  # empty when all have heard them
            await ear.wait(timedelta(seconds=0.1))
    heard = await shop.heard(alice, order_id)
    assert [heard.count(type_) for type_ in ("checkout.completed", "order.confirmed", "cart.settled")] == [101, 1, 1]
    assert [line["quantity"] for line in (await alice.get("/api/v1/cart")).json()["lines"]] == [3]
    assert (await shop.shelf(alice, PLENTY))["sold"] == 1
    assert shop.rows("orders", "select status from shop_order") == [("CONFIRMED",)]


@pytest.mark.soak
async def test_calling_it_off_is_the_saga_s_to_decide(shop):
    """P4: before the bank has paid, all is undone; after it, it is too late."""
    alice = await shop.visitor()
    before = await shop.shelf(alice, SKU)
    order_id = await lead(shop, alice, "silent")
    await shop.until(alice, order_id, "payment.session_opened")
    answers = [(await alice.post(f"/api/v1/orders/{order_id}/cancel")).status_code for _ in range(2)]
    assert answers == [202, 202]
    await shop.until(alice, order_id, "order.canceled")
    assert await order_of(alice, order_id) == ("CANCELED", "customer")
    assert await shop.shelf(alice, SKU) == before
    paid = await lead(shop, alice)
    await shop.until(alice, paid, "order.confirmed")
    assert (await alice.post(f"/api/v1/orders/{paid}/cancel")).status_code == 409


@pytest.mark.parametrize(("method", "ends"), [("lost", "CONFIRMED"), *soaked(("silent", "CANCELED"))])
async def test_silence_is_no_answer(open_shop, tmp_path, method, ends):
    """P4, P7: when the time is over the bank is asked by the key; only then the checkout fails, or goes on."""
    async with open_shop(tmp_path, SHOP_PAYMENT_WINDOW="8") as shop:  # in which the bank takes its money on any machine
        alice = await shop.visitor()
        order_id = await lead(shop, alice, method)
        await shop.until(alice, order_id, "order.canceled" if ends == "CANCELED" else "stock.sold")
        assert (await order_of(alice, order_id))[0] == ends
        captured = "select count(*) from charge where captured_at is not null and refund_key is null"
        assert shop.rows("bank", captured) == [(int(ends == "CONFIRMED"),)]


async def test_money_that_comes_after_the_end_goes_back(shop, monkeypatch):
    """P5, H352: the bank was moving it when the checkout was given up: it is asked until it knows."""
    monkeypatch.setattr("shop.payment.api.ASK_AGAIN", timedelta(milliseconds=100))
    monkeypatch.setattr("shop.payment.app.ASK_AGAIN", timedelta(milliseconds=100))
    alice = await shop.visitor()
    order_id = await lead(shop, alice, "silent")
    await shop.until(alice, order_id, "payment.session_opened")
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    await shop.change("bank", f"update charge set captured_at = '{soon:%Y-%m-%d %H:%M:%S.%f}'")
    await alice.post(f"/api/v1/orders/{order_id}/cancel")
    heard = await shop.until(alice, order_id, "order.canceled", "payment.refunded")
    assert heard.index("order.canceled") < heard.index("payment.captured") < heard.index("payment.refunded")
    assert heard.count("payment.refunded") == 1
    assert shop.rows("payment", "select status from payment") == [("refunded",)]
