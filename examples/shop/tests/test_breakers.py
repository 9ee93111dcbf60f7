"""A service that does not answer: it is not asked any more, what needs it says so at once, and the rest goes on."""

import asyncio
import json
import logging
from contextlib import suppress
from datetime import timedelta

import pytest

from rig.ports import free_port
from shop.backends import FAILURES, Breakers, Explained, Guarded, if_there
from shop.problems import NoAnswer, Problem
from shop.rpc.client import Channels
from shop.users.seed import DEMO_PASSWORD
from txpatterns.errors import CircuitOpen
from txpatterns.hooks import HookList, Hooks, on
from txpatterns.resilience.moments import CallRefused
from txpatterns.testing.clock import ManualClock

SKU = "PLAY-01"
HTML = {"accept": "text/html"}


class Service:
    """Answers each call with what it is told to."""

    def __init__(self, answer=None):
        self.answer, self.calls = answer, 0

    async def ask(self, *arguments):
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return arguments


def breaker():
    made = Breakers(timedelta(seconds=5)).of("stock", HookList())
    made._clock = ManualClock()
    return made


async def refused(kind, call):
    with pytest.raises(kind) as caught:
        await call
    return caught.value


async def test_who_does_not_answer_is_not_asked():
    """H387: after some calls in vain none is made; one tries after a while; people are told for how long that is."""
    service, stock = Service(NoAnswer("unavailable", "s does not answer.")), breaker()
    saga, page = Guarded(service, stock), Explained(service, stock)
    for _ in range(FAILURES):
        assert (await refused(Problem, page.ask())).kind.slug == "unavailable"
    await refused(CircuitOpen, saga.ask())
    told = await refused(Problem, page.ask())
    assert (told.kind.status, told.extra, service.calls) == (503, {"retry_after": 5}, FAILURES)
    assert await if_there(page.ask()) is None
    service.answer = None
    stock._clock.advance(timedelta(seconds=5))
    assert await saga.ask(1, 2) == (1, 2)
    assert await page.ask(3) == (3,)


@pytest.mark.parametrize(
    "answer",
    [
        Problem("out-of-stock", "No."),
        Problem("internal", "A bug, with this one request."),
        Problem("unavailable", "It is there; somebody whom it needs is not."),
        Problem("timeout", "There was no time left to ask."),
        ValueError("ours"),
    ],
)
async def test_whoever_answers_is_there(answer):
    """H387: a no, a fault of one request, or somebody else's absence stops no other call."""
    page = Explained(Service(answer), breaker())
    for _ in range(2 * FAILURES):
        assert await refused(type(answer), page.ask()) is answer


async def test_silence_counts_before_the_saga_gives_up():
    """H387: who is asked and says nothing is found out, though a saga cuts its call off from outside."""
    stock = breaker()
    never = asyncio.Event()

    class Silent:
        async def ask(self):
            await never.wait()

    saga = Guarded(Silent(), stock, within=0.01)
    for _ in range(FAILURES):
        assert (await refused(Problem, saga.ask())).kind.slug == "timeout"
    await refused(CircuitOpen, saga.ask())


async def test_what_a_page_cannot_do_without_is_told():
    """H387: only absence is passed over."""
    await refused(Problem, if_there(Explained(Service(Problem("not-found", "No.")), breaker()).ask()))
    assert await if_there(Explained(Service(NoAnswer("timeout", "s")), breaker()).ask()) is None


@pytest.fixture
async def away(shop):
    """Take a service away from the gateway: its address is there, and nobody listens at it."""
    async with Channels() as channels:

        def take(name, attribute):
            asked = getattr(shop.web.state.context.services, attribute)
            asked = getattr(asked, "source", asked)
            there, asked._api = asked._api, channels.caller(name, f"127.0.0.1:{free_port()}")
            return lambda: setattr(asked, "_api", there)

        yield take


class Refusals(Hooks):
    """Hears of calls that were not made."""

    def __init__(self):
        self.heard = asyncio.Event()

    @on(CallRefused)
    def refused(self, moment):
        self.heard.set()


async def states(client):
    return {each["name"]: each["state"] for each in (await client.get("/api/v1/backends")).json()}


async def test_the_catalogue_is_away(shop, away, caplog):
    """H387: the cart still shows, with the prices that were seen; the rest says how long it is away."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 2})
    shop.web.state.context.breakers.all["catalog"].open_for = timedelta(hours=1)
    come_back = away("catalog", "catalog")
    with caplog.at_level(logging.WARNING, "txpatterns"):
        while (answer := await alice.get("/api/v1/products")).status_code == 503 and "retry_after" not in answer.json():
            assert (answer.json()["type"], answer.headers["retry-after"]) == ("/api/v1/problems/unavailable", "1")
    assert (answer.status_code, answer.json()["detail"]) == (503, "catalog does not answer, so it was not asked.")
    assert 3000 <= int(answer.headers["retry-after"]) <= 3600
    assert "catalog is taken to be away" in caplog.text
    assert await states(alice) == dict.fromkeys(await states(alice), "closed") | {"catalog": "open"}
    cart = await alice.get("/cart")
    assert (cart.status_code, "The catalogue does not answer." in cart.text, "To the checkout" in cart.text) == (
        200,
        True,
        True,
    )
    assert (await alice.get("/orders")).status_code == 200
    home = await alice.get("/", headers=HTML)
    assert (home.status_code, "Try again" in home.text, "retry-after" in home.headers) == (503, True, True)
    board = await alice.get("/backends")
    assert ("Away" in board.text, "next call in" in board.text) == (True, True)
    come_back()
    shop.web.state.context.breakers.all["catalog"].close()
    assert (await alice.get("/")).status_code == 200
    assert (await states(alice))["catalog"] == "closed"


@pytest.mark.parametrize(("name", "attribute"), [("inventory", "inventory"), ("cart", "carts")])
async def test_who_looks_around_needs_no_stock_and_no_cart(shop, away, name, attribute):
    """H387: products are shown without what is on the shelf, and each page without the number in the cart."""
    alice = await shop.visitor()
    away(name, attribute)
    for path in ("/", f"/products/{SKU}", "/orders", "/backends"):
        answer = await alice.get(path)
        assert (answer.status_code, "Sold out" in answer.text) == (200, False)


async def test_a_checkout_without_the_wallet(shop, away):
    """H387: the page says that the credit cannot be looked up, and the order is placed all the same."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    away("wallet", "wallets")
    page = await alice.get("/checkout")
    assert (page.status_code, "cannot be looked up" in page.text, "Order and pay" in page.text) == (200, True, True)
    assert (await alice.post("/api/v1/checkout", json={"method": "succeed"})).status_code == 202


async def test_who_is_signed_in_stays_so_without_the_users_service(shop, away):
    """H381, H387: nobody is asked while an access token is good; who signs in is told to come again."""
    ada = await shop.visitor()
    credentials = {"email": "ada@example.com", "password": DEMO_PASSWORD}
    header = {
        "authorization": f"Bearer {(await ada.post('/api/v1/auth/login', json=credentials)).json()['access_token']}"
    }
    away("users", "users")
    assert (await ada.get("/api/v1/cart", headers=header)).status_code == 200
    for _ in range(FAILURES + 1):
        answer = await ada.post("/api/v1/auth/login", json=credentials)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert (await states(ada))["users"] == "open"


async def test_a_saga_waits_for_who_is_away(shop):
    """P4, H387: its step was not begun, so none of its attempts is used up; it goes on when a call is let through."""
    alice = await shop.visitor()
    breaker, refusals = shop.web.state.context.breakers.all["inventory"], Refusals()
    breaker.hooks.add(refusals)
    breaker.open(timedelta(seconds=3))
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    ordered = await alice.post("/api/v1/checkout", json={"method": "succeed", "mode": "orchestrated"})
    order_id = ordered.json()["id"]
    while not refusals.heard.is_set():  # a slow machine comes when it is closed again, but never that often
        breaker.open(timedelta(seconds=3))
        with suppress(TimeoutError):
            await asyncio.wait_for(refusals.heard.wait(), 1)
    await shop.until(alice, order_id, "order.confirmed")
    with shop.bell.listening(order_id) as ear:  # notes about steps come when they come
        while ("done", 0) not in (noted := attempts_at(shop, "reserve")):
            await ear.wait(timedelta(seconds=1))
    assert noted.count(("begun", 1)) >= 2, noted
    assert {attempt for _, attempt in noted} <= {0, 1}
    assert (await states(alice))["inventory"] == "closed"


def attempts_at(shop, step):
    rows = shop.rows("gateway", "select payload from timeline where type = 'checkout.step' order by position")
    notes = [json.loads(payload) for (payload,) in rows]
    return [(note["what"], note["attempt"]) for note in notes if note["step"] == step]
