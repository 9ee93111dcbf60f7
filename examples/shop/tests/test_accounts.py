"""Signing in at the gateway: for programs and in browsers, without losing the cart or the session on the way."""

import asyncio
import re
from dataclasses import replace

import pytest

from shop.gateway.account_pages import safe_path
from shop.gateway.cookies import VISITOR
from shop.gateway.sessions import ACCESS, REFRESH
from shop.problems import MEDIA_TYPE, Problem
from shop.users.seed import DEMO_PASSWORD
from shop.users.tries import Tries
from txpatterns.resilience import MemoryBuckets
from txpatterns.testing.clock import ManualClock

ADA, BEN = "ada@example.com", "ben@example.com"
HTML = {"accept": "text/html"}
SKU = "LIGHT-01"
EVERYBODYS = {
    ("GET", "/health"),
    ("POST", "/webhooks/payments/{provider}"),
}
"""Where a token is not even looked at."""


async def tokens(client, email=ADA):
    answer = await client.post("/api/v1/auth/login", json={"email": email, "password": DEMO_PASSWORD})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def bearer(client, email=ADA):
    return {"authorization": f"Bearer {(await tokens(client, email))['access_token']}"}


async def form_of(client, page):
    return {"csrf": re.search(r'name="csrf" value="([^"]*)"', (await client.get(page)).text)[1]}


async def sign_in(client, email=ADA, then=""):
    """Sign in as a browser does, and go where it leads."""
    page = "/account" if REFRESH in client.cookies else "/login"
    form = await form_of(client, page) | {"email": email, "password": DEMO_PASSWORD, "then": then}
    answer = await client.post("/login", data=form)
    assert answer.status_code == 303, answer.text
    return await client.get(answer.headers["location"])


def with_cookies(**cookies):
    """The header of a request that comes with these cookies, whatever the browser has now."""
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


async def sign_out(client):
    answer = await client.post("/logout", data=await form_of(client, "/account"))
    assert answer.status_code == 303


async def put_in(client, quantity=1, sku=SKU, **options):
    return await client.post("/api/v1/cart/items", json={"sku": sku, "quantity": quantity}, **options)


async def cart(client, **options):
    return {line["sku"]: line["quantity"] for line in (await client.get("/api/v1/cart", **options)).json()["lines"]}


async def test_two_users_have_two_carts(shop):
    """H384: whoever signs in, wherever, has the same cart; nobody has another one's."""
    ada, ben, adas_phone = await shop.visitor(), await shop.visitor(), await shop.visitor()
    await sign_in(ada)
    await sign_in(ben, BEN)
    await put_in(ada, 2)
    await put_in(ben, 5)
    assert (await cart(ada), await cart(ben)) == ({SKU: 2}, {SKU: 5})
    await sign_in(adas_phone)
    assert await cart(adas_phone) == {SKU: 2}
    await sign_in(adas_phone, BEN)
    assert await cart(adas_phone) == {SKU: 5}


async def test_a_token_is_for_programs_what_the_cookies_are_in_browsers(shop):
    """L-072: the same cart by either; and `/me` says whose."""
    browser, program = await shop.visitor(), await shop.visitor()
    await sign_in(browser)
    await put_in(browser, 3)
    header = await bearer(program)
    assert await cart(program, headers=header) == {SKU: 3}
    me = (await program.get("/api/v1/me", headers=header)).json()
    assert (me["email"], me["name"]) == (ADA, "Ada")
    assert (await browser.get("/api/v1/me")).json() == me


async def test_every_route_refuses_a_token_that_is_not_valid(shop):
    """H383: none of them takes whoever has a forged token for a visitor; what is open to all is named here."""
    anybody = await shop.visitor()
    described = (await anybody.get("/openapi.json")).json()["paths"]
    refused = set()
    for path, methods in described.items():
        for method in methods:
            answer = await anybody.request(method, path, headers={"authorization": "Bearer forged"})
            if answer.status_code == 401 and answer.json()["type"].endswith("/unauthenticated"):
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.headers["content-type"] == MEDIA_TYPE
                refused.add((method.upper(), path))
    everything = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert everything - refused == EVERYBODYS
    assert ("GET", "/api/v1/me") in everything
    for header in ("Basic YTpi", "Bearer", ""):
        assert (await anybody.get("/api/v1/cart", headers={"authorization": header})).status_code == 401


async def test_without_an_account_nothing_is_known_about_somebody(shop):
    """G-078: visitors may fill a cart and order; their account is a 401, never somebody's."""
    answer = await (await shop.visitor()).get("/api/v1/me")
    assert (answer.status_code, answer.json()["type"]) == (401, "/api/v1/problems/unauthenticated")


async def test_programs_register_stay_and_sign_out(shop):
    """L-063: register, sign in, exchange, sign out; errors are problems, and the description shows each route."""
    client = await shop.visitor()
    new = {"email": "grace@example.com", "password": "long enough", "name": "Grace"}
    for _ in range(2):
        made = await client.post("/api/v1/auth/register", json=new)
        assert (made.status_code, made.json()) == (202, {"status": "accepted"})
    first = (await client.post("/api/v1/auth/login", json=new)).json()
    assert (first["token_type"], first["expires_in"], first["user"]["name"]) == ("Bearer", 300, "Grace")
    given = {"refresh_token": first["refresh_token"]}
    second = (await client.post("/api/v1/auth/refresh", json=given)).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (await client.post("/api/v1/auth/logout", json=given)).status_code == 204
    ended = await client.post("/api/v1/auth/refresh", json={"refresh_token": second["refresh_token"]})
    assert (ended.status_code, ended.json()["type"]) == (401, "/api/v1/problems/session-ended")
    assert not {ACCESS, REFRESH} & set(client.cookies)
    short = await client.post("/api/v1/auth/register", json=new | {"password": "hunter2"})
    assert (short.status_code, "hunter2" in short.text) == (422, False)


async def test_too_many_tries_are_told_when_to_come_again(shop):
    """H382, L-066: the eleventh in a minute, for programs and on the page."""
    client = await shop.visitor()
    users = shop.web.state.context.services.users._api
    users.tools = replace(users.tools, tries=Tries(MemoryBuckets(clock=ManualClock())))
    wrong = {"email": "nobody@example.com", "password": "wrong" * 3}
    for _ in range(10):
        assert (await client.post("/api/v1/auth/login", json=wrong)).status_code == 401
    last = await client.post("/api/v1/auth/login", json=wrong)
    assert (last.status_code, last.json()["type"]) == (429, "/api/v1/problems/too-many-tries")
    assert 1 <= int(last.headers["retry-after"]) <= 60
    page = await client.post("/login", data=await form_of(client, "/login") | wrong, headers=HTML)
    assert (page.status_code, "Too many tries" in page.text) == (429, True)
    assert "retry-after" in page.headers


async def test_cookies_are_out_of_reach_of_scripts_and_other_sites(shop):
    """H383: each is HttpOnly and SameSite; over TLS also Secure. Nothing of them is in an address or on a page."""
    client = await shop.visitor()
    form = await form_of(client, "/login") | {"email": ADA, "password": DEMO_PASSWORD}
    answer = await client.post("/login", data=form)
    told = answer.headers.get_list("set-cookie")
    assert {each.partition("=")[0] for each in told} >= {ACCESS, REFRESH}
    for each in told:
        assert "HttpOnly; SameSite=Lax" in each
        assert "Secure" not in each
    secrets = [client.cookies[ACCESS], client.cookies[REFRESH]]
    page = await client.get("/account")
    assert not any(secret in page.text or secret in answer.headers["location"] for secret in secrets)
    assert page.headers["cache-control"] == "no-store"
    client.base_url = "https://shop.test"
    client.cookies.clear()
    form = await form_of(client, "/login") | {"email": ADA, "password": DEMO_PASSWORD}
    secure = await client.post("/login", data=form)
    assert all("; Secure" in each for each in secure.headers.get_list("set-cookie"))


@pytest.mark.parametrize("origin", ["http://elsewhere.test", "null", "http://shop.test:81"])
async def test_another_site_s_page_moves_nothing_of_who_is_signed_in(shop, origin):
    """H383: what a browser is made to send says where it is from; the page's own requests are let in."""
    client = await shop.visitor()
    await sign_in(client)
    assert (await put_in(client, headers={"origin": origin})).status_code == 403
    assert (await put_in(client, headers={"origin": "http://shop.test"})).status_code == 201
    assert await cart(client) == {SKU: 1}


async def test_a_form_belongs_to_a_session(shop):
    """H383: what was made before signing in, or for somebody else, is refused after it."""
    ada, ben = await shop.visitor(), await shop.visitor()
    before = await form_of(ada, "/login")
    await sign_in(ada)
    await sign_in(ben, BEN)
    bens = await form_of(ben, "/account")
    for form in (before, bens, {"csrf": "x"}, {"csrf": "é"}):
        assert (await ada.post("/logout", data=form)).status_code == 403
    assert (await ada.get("/api/v1/me")).status_code == 200


async def test_signing_out_ends_the_session_and_not_only_the_cookies(shop):
    """H383: who kept the cookies of before is not signed in again when the access token has run out."""
    client, thief = await shop.visitor(), await shop.visitor()
    await sign_in(client)
    kept = with_cookies(**{REFRESH: client.cookies[REFRESH]})
    await sign_out(client)
    assert (await client.get("/api/v1/me")).status_code == 401
    assert (await thief.get("/api/v1/me", headers=kept)).status_code == 401


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("/checkout", "/checkout"),
        ("/orders?after=1", "/orders?after=1"),
        ("//elsewhere.test", "/account"),
        ("/\\elsewhere.test", "/account"),
        ("https://elsewhere.test", "/account"),
        ("/a\r\nSet-Cookie: x=y", "/account"),
        ("", "/account"),
    ],
)
def test_signing_in_leads_to_this_shop_only(wanted, there):
    """H383: a link to the sign-in page cannot send somebody elsewhere behind it."""
    assert safe_path(wanted) == there


async def test_a_wrong_password_is_told_and_kept_out_of_the_page(shop):
    """H382: the page is shown again, with the address and without the password; nobody's address looks the same."""
    shown = []
    for email in (ADA, "nobody@example.com"):
        client = await shop.visitor()
        form = await form_of(client, "/login") | {"email": email, "password": "wrong" * 3}
        page = await client.post("/login", data=form, headers=HTML)
        assert page.status_code == 401
        assert "wrongwrong" not in page.text
        shown.append(re.sub(r'name="csrf" value="[^"]*"', "", page.text.replace(f'value="{email}"', "")))
    assert shown[0] == shown[1]
    assert "do not belong together" in shown[0]


async def test_registering_on_the_page_signs_in(shop):
    """L-063: sent twice, it is one account; for an address that somebody else has, the page leads to signing in."""
    client = await shop.visitor()
    await put_in(client, 2)
    form = {"email": "grace@example.com", "password": "long enough", "name": "Grace"}
    first = await client.post("/register", data=await form_of(client, "/register") | form)
    assert (first.status_code, first.headers["location"]) == (303, "/account")
    assert "Hello, Grace" in (await client.get("/account")).text
    assert await cart(client) == {SKU: 2}
    other = await shop.visitor()
    again = await other.post("/register", data=await form_of(other, "/register") | form)
    assert again.status_code == 303
    mallory = await shop.visitor()
    taken = form | {"password": "something else"} | await form_of(mallory, "/register")
    page = await mallory.post("/register", data=taken, headers=HTML)
    assert (page.status_code, "has an account already" in page.text) == (401, True)
    assert (await mallory.get("/api/v1/me")).status_code == 401


async def test_a_session_is_prolonged_unseen(shop):
    """H381: without an access token a request exchanges the other one, and the page is there."""
    client = await shop.visitor()
    await sign_in(client)
    before = client.cookies[REFRESH]
    del client.cookies[ACCESS]
    assert "Hello, Ada" in (await client.get("/account")).text
    assert client.cookies[REFRESH] != before
    assert client.cookies[ACCESS]


async def test_many_requests_of_one_page_prolong_at_once(shop):
    """H381: all have the same run-out token; all are answered, and the browser stays signed in."""
    client = await shop.visitor()
    await sign_in(client)
    old = with_cookies(**{name: client.cookies[name] for name in (REFRESH, VISITOR)})
    client.cookies.clear()
    answers = await asyncio.gather(*(client.get("/api/v1/me", headers=old) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.cookies[REFRESH] for answer in answers}) == 1
    assert (await client.get("/account")).status_code == 200


async def test_a_stolen_cookie_signs_both_out(shop):
    """H380: the old token comes again behind its grace time: the page is a visitor's, and the cookies go."""
    client, thief = await shop.visitor(), await shop.visitor()
    await sign_in(client)
    stolen = client.cookies[REFRESH]
    del client.cookies[ACCESS]
    await client.get("/account")
    await shop.change("users", "update login_session set rotated_at = '2026-01-01 00:00:00'")
    refused = await thief.get("/api/v1/me", headers=with_cookies(**{REFRESH: stolen}))
    assert refused.status_code == 401
    assert f"{REFRESH}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax" in refused.headers.get_list("set-cookie")
    del client.cookies[ACCESS]
    assert (await client.get("/api/v1/me")).status_code == 401
    assert shop.rows("users", "select end_reason from login_session") == [("token_reuse",)]


async def test_a_service_that_is_away_signs_nobody_out(shop, monkeypatch):
    """H381: a request that would have to prolong the session is told to come again, not taken for a visitor's."""
    client = await shop.visitor()
    await sign_in(client)
    users, usual = shop.web.state.context.services.users, shop.web.state.context.services.users.refresh

    async def away(_):
        raise Problem("unavailable", "The service does not answer.")

    del client.cookies[ACCESS]
    monkeypatch.setattr(users, "refresh", away)
    assert (await client.get("/cart", headers=HTML)).status_code == 503
    monkeypatch.setattr(users, "refresh", usual)
    assert (await client.get("/api/v1/me")).status_code == 200


async def test_a_visitor_s_cart_comes_along(shop):
    """H384: what was put in before is added to what the account has, once however often it is asked for."""
    client, phone = await shop.visitor(), await shop.visitor()
    await sign_in(phone)
    await put_in(phone, 2)
    await put_in(phone, 1, "PLAY-01")
    await put_in(client, 3)
    await sign_in(client)
    assert await cart(client) == await cart(phone) == {SKU: 5, "PLAY-01": 1}
    await sign_out(client)
    assert await cart(client) == {}
    await sign_in(client)
    assert await cart(client) == {SKU: 5, "PLAY-01": 1}
    await sign_out(client)
    await put_in(client, 1)
    await sign_in(client)
    assert await cart(client) == {SKU: 6, "PLAY-01": 1}


async def test_windows_that_take_the_cart_over_at_once(shop):
    """H384: many requests come with the visitor's cookie of before; the things are there once."""
    client = await shop.visitor()
    await put_in(client, 3)
    header = await bearer(client) | with_cookies(**{VISITOR: client.cookies[VISITOR]})
    client.cookies.clear()
    carts = await asyncio.gather(*(cart(client, headers=header) for _ in range(10)))
    assert carts == [{SKU: 3}] * 10
    assert shop.rows("cart", "select count(*) from moved_line") == [(1,)]


async def test_a_cart_that_is_away_is_taken_over_later(shop, monkeypatch):
    """H384: signing in does not fail for it, and nothing is lost: the next request takes it over."""
    client = await shop.visitor()
    await put_in(client, 3)
    carts = shop.web.state.context.services.carts
    usual = carts.take_over

    async def away(*_):
        raise Problem("unavailable", "The service does not answer.")

    monkeypatch.setattr(carts, "take_over", away)
    await sign_in(client)
    assert await cart(client) == {}
    monkeypatch.setattr(carts, "take_over", usual)
    assert await cart(client) == {SKU: 3}


async def test_too_many_of_a_thing_are_as_many_as_one_may_have(shop):
    """H384: the sum keeps the cart's own rule."""
    client, phone = await shop.visitor(), await shop.visitor()
    await sign_in(phone)
    await put_in(phone, 60)
    await put_in(client, 60)
    await sign_in(client)
    assert await cart(client) == {SKU: 99}


@pytest.mark.parametrize("mode", ["choreographed", "orchestrated"])
async def test_what_an_order_has_bought_leaves_the_account_s_cart(shop, mode):
    """H384: the order was under way when its visitor signed in: its things go out of where they are now."""
    client, phone, before = await shop.visitor(), await shop.visitor(), await shop.visitor()
    signed_in = asyncio.Event()
    shop.meanwhile = signed_in.wait
    await sign_in(phone)
    await put_in(phone, 1)
    await put_in(client, 2)
    await put_in(client, 1, "PLAY-01")
    before.cookies.set(VISITOR, client.cookies[VISITOR])
    placed = await client.post("/api/v1/checkout", json={"method": "succeed", "mode": mode})
    assert placed.status_code == 202, placed.text
    await sign_in(client)
    assert await cart(client) == {SKU: 3, "PLAY-01": 1}
    signed_in.set()
    await shop.until(before, placed.json()["id"], "cart.settled")
    assert await cart(client) == {SKU: 1}
