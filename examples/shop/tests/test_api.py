"""The REST routes, one promise a test."""

import asyncio
import html

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROBLEM = "application/problem+json"
ROUTES = {
    ("GET", "/health"),
    ("GET", "/api/v1/products"),
    ("GET", "/api/v1/cart"),
    ("POST", "/api/v1/cart/items"),
    ("PUT", "/api/v1/cart/items/{item_id}"),
    ("DELETE", "/api/v1/cart/items/{item_id}"),
    ("DELETE", "/api/v1/cart"),
    ("POST", "/api/v1/checkout"),
    ("GET", "/api/v1/orders"),
    ("GET", "/api/v1/orders/{order_id}"),
}


async def add(client, sku="DESK-01", quantity=1):
    answer = await client.post("/api/v1/cart/items", json={"sku": sku, "quantity": quantity})
    assert answer.status_code == 201, answer.text
    return answer


async def test_the_ten_routes_are_there(one_shop):
    anybody = await one_shop.visitor()
    paths = (await anybody.get("/openapi.json")).json()["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert there >= ROUTES


async def test_health(one_shop):
    anybody = await one_shop.visitor()
    for path in ("/health", "/live", "/ready"):
        assert (await anybody.get(path)).json() == {"status": "ok"}


async def test_products_come_in_pages(one_shop):
    """Following `next` shows every product once."""
    anybody = await one_shop.visitor()
    url, seen = "/api/v1/products?limit=25", []
    while url:
        page = (await anybody.get(url)).json()
        seen += [product["sku"] for product in page["items"]]
        url = page["next"]
    assert len(seen) == len(set(seen)) == 60
    assert len({sku.partition("-")[0] for sku in seen[:8]}) == 8
    assert (await anybody.get("/api/v1/products?after=nowhere")).status_code == 422


async def test_products_by_category_and_words(one_shop):
    anybody = await one_shop.visitor()
    tents = (await anybody.get("/api/v1/products", params={"q": "TENT two"})).json()["items"]
    assert [product["name"] for product in tents] == ["Ridge tent for two"]
    plants = (await anybody.get("/api/v1/products", params={"category": "plants"})).json()["items"]
    assert {product["category"] for product in plants} == {"plants"}
    assert (await anybody.get("/api/v1/products", params={"q": "100%"})).json()["items"] == []


@pytest.mark.parametrize("bad", ["limit=0", "limit=101", "limit=many"])
async def test_impossible_pages_are_refused(one_shop, bad):
    anybody = await one_shop.visitor()
    answer = await anybody.get(f"/api/v1/products?{bad}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"][0]["where"] == "query.limit"


async def test_prices_are_text(one_shop):
    anybody = await one_shop.visitor()
    price = (await anybody.get("/api/v1/products/DESK-01")).json()["product"]["price"]
    assert isinstance(price["amount"], str)
    assert price["currency"] == "EUR"


async def test_a_new_visitor_has_an_empty_cart(one_shop):
    anybody = await one_shop.visitor()
    answer = await anybody.get("/api/v1/cart")
    assert (answer.status_code, answer.json()["lines"], answer.headers["etag"]) == (200, [], '"v0"')


async def test_the_same_thing_twice_is_summed(one_shop):
    alice = await one_shop.visitor()
    await add(alice, quantity=2)
    cart = (await add(alice, quantity=3)).json()
    [line] = cart["lines"]
    assert line["quantity"] == 5
    assert cart["total"] == line["line_total"]


@pytest.mark.parametrize(
    "body", [{"sku": "DESK-01", "quantity": 0}, {"quantity": 1}, {"sku": "DESK-01", "quantity": 100}]
)
async def test_impossible_items_are_refused(one_shop, body):
    alice = await one_shop.visitor()
    answer = await alice.post("/api/v1/cart/items", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)


async def test_more_than_a_cart_holds(one_shop):
    alice = await one_shop.visitor()
    await add(alice, quantity=99)
    answer = await alice.post("/api/v1/cart/items", json={"sku": "DESK-01", "quantity": 1})
    assert answer.status_code == 422
    assert (await alice.get("/api/v1/cart")).json()["lines"][0]["quantity"] == 99


async def test_an_unknown_product_is_a_problem(one_shop):
    alice = await one_shop.visitor()
    answer = await alice.post("/api/v1/cart/items", json={"sku": "NONE-01"})
    assert answer.status_code == 404
    body = answer.json()
    assert body["type"] == "/api/v1/problems/not-found"
    assert body["instance"] == "/api/v1/cart/items"
    assert (await alice.get(body["type"])).status_code == 200


async def test_a_stale_version_is_refused(one_shop):
    """An update made from an old view of the cart changes nothing."""
    alice = await one_shop.visitor()
    old = await add(alice)
    item = f"/api/v1/cart/items/{old.json()['lines'][0]['id']}"
    fresh = await alice.put(item, json={"quantity": 2}, headers={"If-Match": old.headers["etag"]})
    assert fresh.status_code == 200
    stale = await alice.put(item, json={"quantity": 9}, headers={"If-Match": old.headers["etag"]})
    assert (stale.status_code, stale.json()["type"]) == (412, "/api/v1/problems/stale-version")
    assert (await alice.get("/api/v1/cart")).json()["lines"][0]["quantity"] == 2
    again = await alice.put(item, json={"quantity": 3}, headers={"If-Match": fresh.headers["etag"]})
    assert again.status_code == 200
    assert (await alice.put(item, json={"quantity": 4}, headers={"If-Match": "junk"})).status_code == 412
    assert (await alice.put(item, json={"quantity": 4})).status_code == 200


async def test_taking_out_twice_is_fine(one_shop):
    alice = await one_shop.visitor()
    line = (await add(alice)).json()["lines"][0]["id"]
    answers = [(await alice.delete(f"/api/v1/cart/items/{line}")).status_code for _ in range(2)]
    assert answers == [204, 204]
    assert (await alice.put(f"/api/v1/cart/items/{line}", json={"quantity": 1})).status_code == 404


async def test_clearing_twice_is_told_once(one_shop):
    """One cart.cleared event for two requests: the second found nothing to clear."""
    alice = await one_shop.visitor()
    await add(alice)
    versions = []
    for _ in range(2):
        assert (await alice.delete("/api/v1/cart")).status_code == 204
        versions.append((await alice.get("/api/v1/cart")).json()["version"])
    assert versions == [2, 2]


async def test_carts_are_each_visitor_s_own(one_shop):
    alice, bob = await one_shop.visitor(), await one_shop.visitor()
    line = (await add(alice)).json()["lines"][0]["id"]
    assert (await bob.get("/api/v1/cart")).json()["lines"] == []
    assert (await bob.put(f"/api/v1/cart/items/{line}", json={"quantity": 9})).status_code == 404
    await bob.delete(f"/api/v1/cart/items/{line}")
    assert (await alice.get("/api/v1/cart")).json()["lines"][0]["quantity"] == 1


async def test_a_forged_cookie_is_a_new_visitor(one_shop):
    alice, thief = await one_shop.visitor(), await one_shop.visitor()
    await add(alice)
    cookie = alice.cookies["shop_visitor"]
    thief.cookies.set("shop_visitor", cookie[:-2] + "xx")
    answer = await thief.get("/api/v1/cart")
    assert answer.json()["lines"] == []
    assert "shop_visitor" in answer.headers["set-cookie"]


async def test_an_empty_cart_cannot_be_ordered(one_shop):
    alice = await one_shop.visitor()
    answer = await alice.post("/api/v1/checkout", json={})
    assert (answer.status_code, answer.json()["type"]) == (409, "/api/v1/problems/cart-empty")


async def test_the_same_key_gives_the_same_answer(one_shop):
    """P2, H365: fifty requests with one key at once make one order. One is answered; who comes meanwhile is told when
    to come again, and then gets the same answer."""
    alice = await one_shop.visitor()
    await add(alice)
    key = {"Idempotency-Key": "k-1"}
    body = {"method": "silent"}
    answers = await asyncio.gather(*(alice.post("/api/v1/checkout", json=body, headers=key) for _ in range(50)))
    refused = [answer for answer in answers if answer.status_code == 409]
    assert {answer.json()["type"] for answer in refused} <= {"/api/v1/problems/idempotency-key-in-use"}
    assert {answer.headers["retry-after"] for answer in refused} <= {"1"}
    taken = [answer for answer in answers if answer.status_code == 202]
    assert len(taken) + len(refused) == 50
    assert len((await alice.get("/api/v1/orders")).json()["items"]) == 1
    later = await alice.post("/api/v1/checkout", json=body, headers=key)
    assert (later.status_code, later.headers["idempotent-replayed"]) == (202, "true")
    assert {(answer.text, answer.headers["location"]) for answer in taken} == {(later.text, later.headers["location"])}


async def test_a_key_that_cannot_be_read_is_refused(one_shop):
    """H366: and one in quotes is the same as one without."""
    alice = await one_shop.visitor()
    await add(alice)
    odd = await alice.post("/api/v1/checkout", json={"method": "silent"}, headers={"Idempotency-Key": "a, b"})
    assert (odd.status_code, odd.json()["type"]) == (400, "/api/v1/problems/idempotency-key-invalid")
    answers = [
        await alice.post("/api/v1/checkout", json={"method": "silent"}, headers={"Idempotency-Key": key})
        for key in ("k", '"k"')
    ]
    assert answers[0].json() == answers[1].json()


async def test_what_was_refused_may_be_asked_for_again(one_shop):
    """P2, H367: nothing was done under the key, so it is still free."""
    alice = await one_shop.visitor()
    key, body = {"Idempotency-Key": "k"}, {"method": "silent"}
    assert (await alice.post("/api/v1/checkout", json=body, headers=key)).status_code == 409
    await add(alice)
    assert (await alice.post("/api/v1/checkout", json=body, headers=key)).status_code == 202


async def test_the_same_key_for_another_body_is_refused(one_shop):
    alice = await one_shop.visitor()
    await add(alice)
    key = {"Idempotency-Key": "k-1"}
    assert (await alice.post("/api/v1/checkout", json={"method": "silent"}, headers=key)).status_code == 202
    other = await alice.post("/api/v1/checkout", json={"method": "succeed"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "/api/v1/problems/idempotency-key-reused")


async def test_keys_are_each_visitor_s_own(one_shop):
    alice, bob = await one_shop.visitor(), await one_shop.visitor()
    ids = []
    for who in (alice, bob):
        await add(who)
        answer = await who.post("/api/v1/checkout", json={"method": "silent"}, headers={"Idempotency-Key": "k"})
        ids.append(answer.json()["id"])
    assert len(set(ids)) == 2


async def test_an_unknown_way_to_pay_is_refused(one_shop):
    alice = await one_shop.visitor()
    await add(alice)
    assert (await alice.post("/api/v1/checkout", json={"method": "shells"})).status_code == 422


async def test_orders_are_each_visitor_s_own(one_shop):
    """Somebody else's order is not found, rather than forbidden: its existence is nobody's business."""
    alice, bob = await one_shop.visitor(), await one_shop.visitor()
    order_id = await one_shop.buy(alice, "silent")
    assert [order["id"] for order in (await alice.get("/api/v1/orders")).json()["items"]] == [order_id]
    assert (await bob.get("/api/v1/orders")).json()["items"] == []
    for path in ("", "/timeline", "/stream"):
        assert (await bob.get(f"/api/v1/orders/{order_id}{path}")).status_code == 404
    assert (await bob.get(f"/orders/{order_id}")).status_code == 404
    assert (await bob.get(f"/orders/{order_id}/stream")).status_code == 404
    assert (await bob.post(f"/api/v1/orders/{order_id}/cancel")).status_code == 404


async def test_orders_come_in_pages_newest_first(one_shop):
    alice = await one_shop.visitor()
    made = [await one_shop.buy(alice, "silent") for _ in range(3)]
    url, seen = "/api/v1/orders?limit=2", []
    while url:
        page = (await alice.get(url)).json()
        seen += [order["id"] for order in page["items"]]
        url = page["next"]
    assert seen == made[::-1]


async def test_an_order_is_there_at_once(one_shop):
    alice = await one_shop.visitor()
    await add(alice)
    answer = await alice.post("/api/v1/checkout", json={"method": "silent"})
    order = (await alice.get(answer.headers["location"])).json()
    assert order["id"] == answer.json()["id"]
    assert order["status"] in ("PENDING", "CANCELED")


async def test_unknown_addresses_are_problems(one_shop):
    anybody = await one_shop.visitor()
    answer = await anybody.get("/api/v1/nowhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    wrong = await anybody.post("/api/v1/products")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "/api/v1/problems/method-not-allowed")


async def test_every_kind_of_problem_has_its_page(one_shop):
    anybody = await one_shop.visitor()
    for problem in (await anybody.get("/api/v1/problems")).json():
        page = await anybody.get(problem["type"], headers={"accept": "text/html"})
        assert problem["help"].split(";")[0].split("`")[0] in html.unescape(page.text)


async def test_a_changed_price_is_shown_and_agreed_to(one_shop):
    """What costs something else than what the visitor saw is not ordered before they agree: 409 with both prices."""
    alice = await one_shop.visitor()
    await add(alice, "DESK-01", 2)
    before = (await alice.get("/api/v1/products/DESK-01")).json()["product"]["price"]
    await one_shop.reprice("DESK-01", 9999)
    refused = await alice.post("/api/v1/checkout", json={"method": "succeed"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/api/v1/problems/price-changed")
    now = {"amount": "99.99", "currency": "EUR"}
    assert refused.json()["prices"] == [{"sku": "DESK-01", "in_cart": before, "now": now}]
    assert (await alice.get("/api/v1/orders")).json()["items"] == []
    agreed = await alice.post("/api/v1/cart/prices")
    assert (agreed.json()["lines"][0]["unit_price"], agreed.json()["lines"][0]["quantity"]) == (now, 2)
    ordered = await alice.post("/api/v1/checkout", json={"method": "succeed"})
    assert (ordered.status_code, ordered.json()["total"]["amount"]) == (202, "199.98")


async def test_new_prices_for_an_empty_cart(one_shop):
    anybody = await one_shop.visitor()
    assert (await anybody.post("/api/v1/cart/prices")).json()["lines"] == []
