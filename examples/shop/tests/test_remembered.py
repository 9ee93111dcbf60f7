"""Carts and products are remembered; nobody is shown what was before their own change, at any gateway."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from shop.gateway.app import create_app
from shop.gateway.remembered import USUAL, remember_carts, remember_catalog
from shop.gateway.seen import COOKIE, Seen, has_made, seen_version
from shop.money import Money
from shop.problems import NoAnswer, Problem
from shop.users.seed import DEMO_PASSWORD
from txpatterns import new_id
from txpatterns.hooks import HookList
from txpatterns.resilience import RedisEntries

SKU = "PLAY-01"
PATIENCE = 120.0


class Counting:
    """Asks somebody, and counts how often which of their methods."""

    def __init__(self, source):
        self.source, self.asked = source, []

    def __getattr__(self, name):
        async def call(*arguments):
            self.asked.append(name)
            await asyncio.sleep(0)
            return await getattr(self.source, name)(*arguments)

        return call


@asynccontextmanager
async def no_lifespan(_):
    yield


@pytest.fixture
async def beside(shop):
    """Make another gateway in front of the same services, which remembers by itself, or in a Redis."""
    async with AsyncExitStack() as stack:

        async def make(redis=None):
            context = shop.web.state.context
            entries = await stack.enter_async_context(RedisEntries(redis)) if redis else None
            carts = remember_carts(context.services.carts.source, entries, USUAL, HookList())
            catalog = remember_catalog(context.services.catalog.source, entries, USUAL, HookList())
            other = replace(context, services=replace(context.services, carts=carts, catalog=catalog))
            web = create_app(other, shop.settings.cookie_secret, no_lifespan)
            transport = httpx.ASGITransport(web, raise_app_exceptions=False)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop.test"))

        yield make


async def put(client, sku=SKU):
    added = await client.post("/api/v1/cart/items", json={"sku": sku, "quantity": 1})
    assert added.status_code == 201, added.text
    return added.json()


async def cart_of(client):
    answer = await client.get("/api/v1/cart")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def act(client, cart, chance):
    """Change the cart in one way or another; gives how many things are in it then."""
    count = sum(line["quantity"] for line in cart["lines"])
    if not cart["lines"] or chance.random() < 0.5:
        await put(client)
        return count + 1
    line = chance.choice(cart["lines"])
    if chance.random() < 0.5:
        assert (await client.delete(f"/api/v1/cart/items/{line['id']}")).status_code == 204
        return count - line["quantity"]
    assert (await client.delete("/api/v1/cart")).status_code == 204
    return 0


async def wander(clients, chance, steps, meanwhile=None, lost=()):
    """Change and look, each at any gateway: what one sees is what one has done."""
    cart, count, jar = {"lines": []}, 0, httpx.Cookies()
    for client in clients:
        client._cookies = jar  # they are one browser's
    for step in range(steps):
        if meanwhile is not None:
            meanwhile(step)
        count = await act(chance.choice(clients), cart, chance)
        for _ in range(2):
            for cookie in [cookie for cookie in jar.jar if cookie.name in lost]:
                jar.jar.clear(cookie.domain, cookie.path, cookie.name)
            cart = await cart_of(chance.choice(clients))
            assert sum(line["quantity"] for line in cart["lines"]) == count, step


async def test_a_crowd_asks_once(shop):
    """H343, H388: two hundred who look at one cart at the same moment are one question; so it is later on."""
    alice = await shop.visitor()
    await put(alice)
    carts = shop.web.state.context.services.carts
    carts.source = counting = Counting(carts.source)
    await carts.forget((await cart_of(alice))["visitor_id"])
    counting.asked.clear()
    seen = await asyncio.gather(*(cart_of(alice) for _ in range(200)))
    assert ({cart["version"] for cart in seen}, counting.asked) == ({1}, ["get"])
    await cart_of(alice)
    assert counting.asked == ["get"]


async def test_what_one_has_done_one_sees_at_any_gateway(shop, beside):
    """H329, H388: three gateways that share nothing: the visitor carries which version of the cart is theirs."""
    await wander([await shop.visitor(), await beside(), await beside()], random.Random(1), 40)


async def test_a_cart_that_was_taken_over_is_seen_at_any_gateway(shop, beside):
    """H384, H388: what a visitor had is in the account's cart, which another gateway remembers as it was before."""
    credentials = {"email": "ada@example.com", "password": DEMO_PASSWORD}
    browser, elsewhere = await shop.visitor(), await beside()
    signed = await browser.post("/api/v1/auth/login", json=credentials)
    header = {"authorization": f"Bearer {signed.json()['access_token']}"}
    elsewhere._cookies = browser._cookies
    phone = {"cookie": ""} | header
    assert (await elsewhere.get("/api/v1/cart", headers=phone)).json()["lines"] == []
    await put(browser)
    assert [line["sku"] for line in (await cart_of(elsewhere))["lines"]] == [SKU]
    taken = (await browser.get("/api/v1/cart", headers=header)).json()
    assert [line["sku"] for line in taken["lines"]] == [SKU]
    assert (await elsewhere.get("/api/v1/cart", headers=header)).json() == taken
    assert (await cart_of(browser))["lines"] == []


async def test_carts_that_were_taken_over_are_told_of(shop):
    """H388: both, to whoever remembers them: the visitor's, and the account's."""
    alice = await shop.visitor()
    visitor_id = (await put(alice))["visitor_id"]
    alice.cookies.delete(COOKIE)
    carts = shop.web.state.context.services.carts
    user_id = new_id()
    assert ((await carts.get(visitor_id)).version, (await carts.get(user_id)).version) == (1, 0)
    await carts.source.take_over(visitor_id, user_id)  # by a gateway that dies before it can say so
    async with asyncio.timeout(PATIENCE):
        while (await cart_of(alice))["lines"] or not (await carts.get(user_id)).lines:
            continue


async def test_gateways_share_what_they_remember(own_redis, shop, beside):
    """H329, H388: with a Redis nobody has to carry anything."""
    await wander([await beside(own_redis.url) for _ in range(3)], random.Random(2), 40, lost={COOKIE})


async def test_redis_is_killed_and_comes_back(own_redis, shop, beside):
    """H327, H388: without Redis each look is at the service itself; back again, it gives nothing older."""

    def strike(step):
        if step == 8:
            own_redis.kill()
        if step == 16:
            own_redis.start()

    await wander([await beside(own_redis.url) for _ in range(2)], random.Random(3), 30, strike)


async def test_a_change_that_nobody_told_of(shop):
    """H388: another gateway changes a cart and a price, and dies before it can say so: an event does."""
    alice = await shop.visitor()
    services = shop.web.state.context.services
    visitor_id = (await put(alice))["visitor_id"]
    alice.cookies.delete(COOKIE)
    assert (await cart_of(alice))["version"] == 1
    was = (await alice.get(f"/api/v1/products/{SKU}")).json()["product"]
    await services.carts.source.add(visitor_id, SKU, 1, None)
    await services.catalog.source.set_price(SKU, Money(amount="1.23"))
    async with asyncio.timeout(PATIENCE):
        while (await cart_of(alice))["version"] == 1:
            continue
        while (now := (await alice.get(f"/api/v1/products/{SKU}")).json()["product"]) == was:
            continue
    assert (now["price"]["amount"], now["version"]) == ("1.23", was["version"] + 1)


async def test_what_was_bought_is_out_of_the_cart_when_the_page_says_so(shop):
    """H388: whoever reads that the cart is settled sees it settled."""
    alice = await shop.visitor()
    order_id = await shop.buy(alice, "succeed")
    assert len((await cart_of(alice))["lines"]) == 1
    await shop.until(alice, order_id, "cart.settled")
    assert (await cart_of(alice))["lines"] == []


async def test_a_change_of_which_nobody_knows_whether_it_was_made(shop):
    """H388: its answer is lost: what was remembered is not shown any more."""
    alice = await shop.visitor()
    await put(alice)
    assert (await cart_of(alice))["version"] == 1
    carts = shop.web.state.context.services.carts
    source = carts.source

    class Lost:
        get = staticmethod(source.get)

        async def add(self, *arguments):
            await source.add(*arguments)
            raise NoAnswer("timeout", "cart did not answer in time.")

        async def clear(self, visitor_id):
            await source.clear(visitor_id)
            self.get = self.nobody

        async def nobody(self, visitor_id):
            raise NoAnswer("unavailable", "cart does not answer.")

    carts.source = Lost()
    assert (await alice.post("/api/v1/cart/items", json={"sku": SKU})).status_code == 504
    assert (await cart_of(alice))["version"] == 2
    assert (await alice.delete("/api/v1/cart")).status_code == 204  # it is done, though nobody can say which version
    carts.source = source
    assert (await cart_of(alice))["lines"] == []


async def test_a_refusal_tells_that_the_cart_is_another(shop):
    """H388: who is told that the cart has changed is shown the changed one, also before any event comes."""
    alice = await shop.visitor()
    cart = await put(alice)
    page = await alice.get("/cart")
    token = page.text.partition('name="csrf" value="')[2].partition('"')[0]
    services = shop.web.state.context.services
    services.carts.cache._floors.clear()
    line = cart["lines"][0]["id"]
    await services.carts.source.update(cart["visitor_id"], line, 7, None)
    sent = {"csrf": token, "quantity": 3, "version": cart["version"]}
    refused = await alice.post(f"/cart/items/{line}", data=sent)
    assert (refused.status_code, 'value="7"' in refused.text) == (412, True)


async def test_products_that_are_not_there(shop):
    """H388: what the catalogue does not have is not remembered, and hides nothing else."""
    catalog = shop.web.state.context.services.catalog
    assert [product.sku for product in await catalog.products_by_sku([SKU, "NO-SUCH", SKU])] == [SKU]
    with pytest.raises(Problem, match="There is no product"):
        await catalog.product("NO-SUCH")
    for price in ("0.00", "-1.00"):
        with pytest.raises(Problem, match="more than nothing"):
            await catalog.set_price(SKU, Money(amount=price))
    with pytest.raises(Problem, match="There is no product"):
        await catalog.set_price("NO-SUCH", Money(amount="1.00"))


@pytest.mark.parametrize("cookie", ["", "7", "x.visitor-one", "-1.visitor-one", f"{'9' * 16}.visitor-one", "7.other"])
async def test_a_cookie_that_says_nothing(cookie):
    """H388: what is no version, or that of another visitor's cart, is none; and outside of a request there is none."""
    found = []

    async def app(scope, receive, send):
        found.append(seen_version("visitor-one"))
        has_made("visitor-one", 3)
        found.append(seen_version("visitor-one"))

    headers = [(b"cookie", f"{COOKIE}={cookie}".encode())]
    await Seen(app)({"type": "http", "headers": headers}, None, None)
    assert found == [0, 3]
    has_made("visitor-one", 3)
    assert seen_version("visitor-one") == 0
