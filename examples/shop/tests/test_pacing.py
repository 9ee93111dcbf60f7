"""How often one visitor may ask: in one process, and in several that share a Redis, which goes away in the middle."""

import logging

import pytest

from shop.gateway.pacing import class_of, network_of
from shop.given import SettingsError
from shop.settings import read_settings
from shop.users.seed import DEMO_PASSWORD

ONE = "1"
"""A minute: one at once, and the next in a minute, which no test waits for."""
HTML = {"accept": "text/html"}


async def change(client, quantity=1):
    return await client.post("/api/v1/cart/items", json={"sku": "PLAY-01", "quantity": quantity})


async def test_too_many_are_refused_and_told_when(open_shop, tmp_path):
    """H386: as a problem, with how long to wait; nothing was done, and each visitor and class has a bucket."""
    async with open_shop(tmp_path, SHOP_LIMIT_CHANGE=ONE) as shop:
        alice, bob = await shop.visitor(), await shop.visitor()
        for client in (alice, bob):
            welcomed = await client.get("/api/v1/cart")  # with a cookie they are somebody
            assert welcomed.headers["ratelimit-policy"] == '"read";q=300;w=15'
        answers = [await change(alice) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 429]
        left, refused = answers[0].headers, answers[1]
        assert left["ratelimit"].startswith('"change";r=0;t=')
        assert refused.headers["content-type"] == "application/problem+json"
        told = refused.json()
        assert (told["type"], told["violated-policies"]) == ("/api/v1/problems/too-many-requests", ["change"])
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "retry-after" not in left
        assert (await alice.get("/api/v1/cart")).json()["lines"][0]["quantity"] == 1
        assert (await change(bob)).status_code == 201
        page = await alice.post("/cart/clear", data={"csrf": "none"}, headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (429, "text/html; charset=utf-8")
        assert "Too many requests" in page.text


async def test_who_forgets_their_cookie_is_one_customer(open_shop, tmp_path):
    """H386: whoever is new with each request pays from the bucket of their address; a forged cookie is none."""
    async with open_shop(tmp_path, SHOP_LIMIT_CHANGE=ONE) as shop:
        first, second, third = [await shop.visitor() for _ in range(3)]
        third.cookies.set("shop_visitor", "me.forged")
        assert [(await change(client)).status_code for client in (first, second, third)] == [201, 429, 429]
        assert (await change(first)).status_code == 201  # with the cookie of the first answer


async def test_an_account_has_one_bucket(open_shop, tmp_path):
    """H386: in however many browsers and programs somebody is signed in; a visitor's cookie is another one's bucket."""
    async with open_shop(tmp_path, SHOP_LIMIT_CHANGE=ONE) as shop:
        program, browser, visitor = [await shop.visitor() for _ in range(3)]
        signed = await program.post(
            "/api/v1/auth/login", json={"email": "ada@example.com", "password": DEMO_PASSWORD}
        )  # paid for by the address
        header = {"authorization": f"Bearer {signed.json()['access_token']}"}
        for client in (program, browser):
            client.cookies.clear()
            client.headers.update(header)
        assert [(await change(client)).status_code for client in (program, browser)] == [201, 429]
        await visitor.get("/api/v1/cart")
        assert (await change(visitor)).status_code == 201


async def test_the_bank_and_the_probes_are_not_visitors(open_shop, tmp_path):
    """H386: what must arrive has a limit of its own, and who looks after the shop has none."""
    async with open_shop(tmp_path, SHOP_LIMIT_READ=ONE, SHOP_LIMIT_CHANGE=ONE, SHOP_LIMIT_CHECKOUT="0") as shop:
        alice = await shop.visitor()
        # The first one came without a cookie, and was paid for by the address.
        assert [(await alice.get("/api/v1/cart")).status_code for _ in range(3)] == [200, 200, 429]
        for path in ("/health", "/ready", "/static/shop.css"):
            for _ in range(3):
                answer = await alice.get(path)
                assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
        for _ in range(3):
            refused = await alice.post("/webhooks/payments/mock", content=b"{}")
            assert (refused.status_code, refused.headers["ratelimit-policy"]) == (401, '"webhook";q=1500;w=15')
            empty = await alice.post("/api/v1/checkout", json={})
            assert (empty.status_code, "ratelimit" in empty.headers) == (409, False)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/checkout", "read"),
        ("POST", "/checkout", "checkout"),
        ("POST", "/api/v1/checkout/", "checkout"),
        ("POST", "/show/compensation", "checkout"),
        ("DELETE", "/api/v1/cart", "change"),
        ("POST", "/webhooks/payments/mock", "webhook"),
        ("GET", "/webhooks/payments/mock", "webhook"),
    ],
)
def test_the_class_of_a_route(method, path, name):
    """H386: ordering costs the shop most, and has the smallest bucket."""
    assert class_of(method, path) == name


def test_one_customer_has_many_addresses():
    """H386: of IPv6 a whole network is one customer's; what is no address is taken as it is."""
    assert network_of("2001:db8:1:2::3") == network_of("2001:db8:1:2:ffff::1") != network_of("2001:db8:1:3::3")
    assert (network_of("127.0.0.1"), network_of("testclient"), network_of("")) == ("127.0.0.1", "testclient", "")


async def test_two_gateways_share_the_limits_and_go_on_without_redis(open_shop, own_redis, tmp_path, caplog):
    """H327, H386: one bucket for both; without Redis each counts for itself, and says so."""
    env = {"SHOP_REDIS": own_redis.url, "SHOP_COOKIE_SECRET": "one for both", "SHOP_LIMIT_CHANGE": ONE}
    async with open_shop(tmp_path / "a", **env) as one, open_shop(tmp_path / "b", **env) as other:
        here, there = await one.visitor(), await other.visitor()
        await here.get("/api/v1/cart")
        there.cookies.update(here.cookies)
        assert [(await change(client)).status_code for client in (here, there, here)] == [201, 429, 429]
        own_redis.kill()
        with caplog.at_level(logging.WARNING, "txpatterns"):
            alone = [(await change(client)).status_code for client in (here, here, there, there)]
            for client in (here, there):  # enough in vain for the breaker before it
                for _ in range(3):
                    assert (await client.get("/api/v1/cart")).status_code == 200
        assert alone == [201, 429, 201, 429]
        assert caplog.text.count("redis RedisBuckets is taken to be away") == 2
        assert own_redis.url not in caplog.text


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "99999999"])
def test_a_limit_that_is_none_is_named(tmp_path, value):
    """H249: with what it may be."""
    with pytest.raises(SettingsError, match=f"SHOP_LIMIT_READ must be so many calls a minute.*it is '{value}'"):
        read_settings(tmp_path, None, 42, True, {"SHOP_LIMIT_READ": value})


def test_the_address_of_redis(tmp_path):
    """H249, I17: under either name; one that is none is refused without being shown."""
    assert read_settings(tmp_path, None, 42, True, {}).redis is None
    assert read_settings(tmp_path, None, 42, True, {"REDIS_ADDR": "r:6379"}).redis == "redis://r:6379"
    assert read_settings(tmp_path, None, 42, True, {"SHOP_REDIS": "rediss://r/1"}).redis == "rediss://r/1"
    with pytest.raises(SettingsError, match="SHOP_REDIS") as caught:
        read_settings(tmp_path, None, 42, True, {"SHOP_REDIS": "http://:geheim@r"})
    assert "geheim" not in str(caught.value)
