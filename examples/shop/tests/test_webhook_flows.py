"""Webhooks that come twice, late, never, or in the wrong order: nobody pays twice, nobody pays for nothing."""

import asyncio
from datetime import timedelta

from shop.bank.api import BankApi, Temper
from shop.bank.models import Base
from shop.money import Money
from txpatterns import App


async def test_ten_times_at_once(shop, body_of):
    """P2, H153: the same webhook ten times in parallel has one effect, and every answer says that it was taken."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "succeed")
    await shop.until(alice, order_id, "order.confirmed")
    (body, headers) = shop.posted[0]
    answers = await asyncio.gather(*(shop.post(body, headers) for _ in range(10)))
    assert set(answers) == {200}
    heard = await shop.until(alice, order_id, "webhook.repeated")
    assert heard.count("payment.captured") == 1
    event_id = body_of(shop.posted[0])["id"]
    assert shop.rows("payment", f"select count(*) from webhook_event where event_id = '{event_id}'") == [(1,)]


async def test_twice(shop):
    """P2, H153: what the bank repeats changes nothing, and the timeline shows that it was told again."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "twice")
    heard = await shop.until(alice, order_id, "webhook.repeated", "stock.sold")
    assert heard.count("payment.captured") == heard.count("order.paid") == 1


async def test_in_the_wrong_order(shop):
    """Declined first, charged then, the news the other way round: the money that moved counts."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "reordered")
    heard = await shop.until(alice, order_id, "webhook.repeated", "stock.sold")
    assert "payment.failed" not in heard
    assert (await alice.get(f"/api/v1/orders/{order_id}")).json()["status"] == "CONFIRMED"


async def test_too_late(hasty_shop):
    """P4: a capture after the cancellation is refunded, once."""
    shop, alice = hasty_shop, await hasty_shop.visitor()
    before = await shop.shelf(alice, "PLAY-01")
    order_id = await shop.buy(alice, "late")
    heard = await shop.until(alice, order_id, "payment.refunded")
    assert heard.index("order.canceled") < heard.index("payment.captured") < heard.index("refund.requested")
    assert heard.count("payment.refunded") == 1
    assert await shop.shelf(alice, "PLAY-01") == before
    [(status,)] = shop.rows("payment", f"select status from payment where order_id = '{shop.number(order_id)}'")
    assert status == "refunded"


async def test_lost(hasty_shop):
    """P4: the bank charged and its answer was lost. The bank is asked, and the money goes back."""
    shop, alice = hasty_shop, await hasty_shop.visitor()
    order_id = await shop.buy(alice, "lost")
    heard = await shop.until(alice, order_id, "payment.refunded")
    timeline = (await alice.get(f"/api/v1/orders/{order_id}/timeline")).json()["entries"]
    captured = next(entry for entry in timeline if entry["type"] == "payment.captured")
    assert captured["payload"]["source"] == "look-up"
    assert heard.count("refund.requested") == 1


async def test_money_on_its_way(open_shop, tmp_path):
    """P4, H277: the order ends while money is being moved, and no answer comes: the bank is asked until it is known."""
    async with open_shop(tmp_path, SHOP_PAYMENT_WINDOW="1", SHOP_BANK_DELAY="2.5") as shop:
        alice = await shop.visitor()
        order_id = await shop.buy(alice, "lost")
        heard = await shop.until(alice, order_id, "payment.refunded")
        assert heard.index("order.canceled") < heard.index("payment.captured") < heard.index("refund.requested")
        assert shop.rows("bank", "select count(*) from charge where refund_key is null") == [(0,)]


async def test_a_charge_that_is_stopped_before_it_comes(tmp_path):
    """P4, H277: a charge that is asked for after the order has ended, by a process that stood still, moves nothing."""
    amount = Money(amount="12.50")
    app = App("bank", f"sqlite+aiosqlite:///{tmp_path}/bank.db", "memory://", metadata=Base.metadata)
    async with app:
        bank = BankApi(app, Temper(seed=1, think=timedelta(0)))
        assert (await bank.stop("late", amount)).status == "failed"
        assert (await bank.charge("late", amount, "succeed", 1)).status == "failed"
        charge = await bank.charge("early", amount, "succeed", 1)
        assert await bank.stop("early", amount) == charge.model_copy(update={"status": "captured"})
        assert (await bank.charge("hanging", amount, "silent", 1)).status == "pending"
        assert (await bank.stop("hanging", amount)).status == "failed"


async def test_forged_and_stale_webhooks_are_refused(shop):
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "succeed")
    await shop.until(alice, order_id, "order.confirmed")
    body, headers = shop.posted[0]
    anybody = await shop.visitor()
    url = "/webhooks/payments/mock"
    forged = await anybody.post(url, content=body, headers=headers | {"webhook-signature": "v1,AAAA"})
    assert (forged.status_code, forged.headers["content-type"]) == (401, "application/problem+json")
    changed = await anybody.post(url, content=body.replace(b"EUR", b"USD"), headers=headers)
    assert changed.status_code == 401
    unsigned = await anybody.post(url, content=body)
    assert unsigned.status_code == 401
    assert (await anybody.post("/webhooks/payments/other", content=body, headers=headers)).status_code == 404


async def test_the_bank_takes_charges_while_it_posts(shop):
    """P7: posting a webhook and asking for a charge never wait for each other, on databases with one writer each."""
    alice, bob = await shop.visitor(), await shop.visitor()
    orders = []

    async def meanwhile():
        if not orders:
            orders.append(await shop.buy(bob, "silent"))
            await shop.until(bob, orders[0], "payment.session_opened")

    shop.meanwhile = meanwhile
    order_id = await shop.buy(alice, "succeed")
    await shop.until(alice, order_id, "order.confirmed")
    assert len(shop.posted) == 1
