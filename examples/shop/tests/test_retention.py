"""What is kept, and for how long."""

from datetime import UTC, datetime, timedelta

from shop.gateway.retention import KEYS_KEPT, STORIES_KEPT, prune_keys, prune_stories
from shop.payment.retention import WEBHOOKS_KEPT
from shop.pruning import prune_once

A_WHILE = timedelta(minutes=10)


async def counts(shop):
    gateway = [shop.rows("gateway", f"select count(*) from {table}")[0][0] for table in ("http_answer", "timeline")]
    return [*gateway, shop.rows("payment", "select count(*) from webhook_event")[0][0]]


async def age(shop, service, table, column, kept):
    then = (datetime.now(UTC) - kept - A_WHILE).strftime("%Y-%m-%d %H:%M:%S.%f")
    await shop.change(service, f"update {table} set {column} = '{then}'")


async def test_what_is_old_goes_when_the_shop_opens(tmp_path, open_shop):
    """I16, H245: idempotency keys, stories and webhooks are deleted once they have served their time, and only then."""
    async with open_shop(tmp_path) as shop:
        alice = await shop.visitor()
        await alice.post("/api/v1/cart/items", json={"sku": "PLAY-01"})
        head = {"Idempotency-Key": "k"}
        order_id = (await alice.post("/api/v1/checkout", json={"method": "succeed"}, headers=head)).json()["id"]
        await shop.until(alice, order_id, "stock.sold", "cart.settled")
        cookies, before = dict(alice.cookies), await counts(shop)
        assert min(before) > 0
    async with open_shop(tmp_path) as shop:
        assert await counts(shop) == before
        await age(shop, "gateway", "http_answer", "at", KEYS_KEPT)
        await age(shop, "gateway", "timeline", "seen_at", STORIES_KEPT)
        await age(shop, "payment", "webhook_event", "received_at", WEBHOOKS_KEPT)
        await age(shop, "orders", "shop_order", "created_at", STORIES_KEPT)
    async with open_shop(tmp_path) as shop:
        assert await counts(shop) == [0, 0, 0]
        alice = await shop.visitor()
        alice.cookies.update(cookies)
        page = (await alice.get(f"/orders/{order_id}", headers={"accept": "text/html"})).text
        assert "Confirmed" in page
        assert "its story is not kept any longer" in page
        assert "event: end" in (await alice.get(f"/orders/{order_id}/stream")).text
        told = (await alice.get(f"/api/v1/orders/{order_id}/timeline")).json()
        assert (told["headline"], told["entries"]) == ("Confirmed", [])


async def test_a_story_is_put_away_as_a_whole(shop):
    """H245: while its last event is young, its first one stays, however old."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "silent")
    heard = await shop.until(alice, order_id, "payment.session_opened")
    then = (datetime.now(UTC) - STORIES_KEPT - A_WHILE).strftime("%Y-%m-%d %H:%M:%S.%f")
    await shop.change("gateway", f"update timeline set seen_at = '{then}' where type = 'order.created'")
    app = shop.web.state.context.app
    assert await prune_once(app, [prune_keys, prune_stories], datetime.now(UTC)) == 0
    assert await shop.heard(alice, order_id) == heard


async def test_a_key_that_was_forgotten_still_makes_one_order(shop):
    """P2, H245: the order is the key's for ever; only the wording of the first answer is forgotten."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": "PLAY-01"})
    key, body = {"Idempotency-Key": "k"}, {"method": "silent"}
    first = await alice.post("/api/v1/checkout", json=body, headers=key)
    await age(shop, "gateway", "http_answer", "at", KEYS_KEPT)
    assert await prune_once(shop.web.state.context.app, [prune_keys], datetime.now(UTC)) == 1
    await alice.post("/api/v1/cart/items", json={"sku": "PLAY-01"})
    again = await alice.post("/api/v1/checkout", json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
