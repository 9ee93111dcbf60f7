"""The same services as processes of their own, on PostgreSQL and Kafka."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
import pytest

from rig.servers.elasticmq import ElasticMQ
from rig.servers.fanout import fanned_out
from rig.servers.kafka import Kafka
from rig.servers.postgres import Postgres
from rig.servers.rabbitmq import RabbitMQ
from rig.servers.redis import Redis
from rig.servers.sqs import logged_in
from rig.started import started
from shop.settings import HTTP_PORTS, PORTS
from shop.users.seed import DEMO_PASSWORD

PATIENCE = 300.0


@pytest.fixture(scope="module")
def postgres():
    """The URL of a real PostgreSQL."""
    with started(Postgres) as server:
        yield server.url


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.server
@pytest.mark.timeout(900)
def test_orders_through_eight_processes(postgres, tmp_path):
    """P1, P2, P3, H384, H387, H392: orders of either kind go through every service over PostgreSQL, Kafka and Redis.

    One of them is killed then: what can do without it goes on. All end when asked.
    """
    with ExitStack() as stack:
        broker, redis = (stack.enter_context(started(kind)).url for kind in (Kafka, Redis))
        alice, told = stack.enter_context(up(postgres, broker, tmp_path, SHOP_REDIS=redis))
        ask(alice, "GET", "/health", told)
        for mode in ("choreographed", "orchestrated"):
            ask(alice, "POST", "/api/v1/cart/items", told, {"sku": "PLAY-01", "quantity": 1})
            placed = ask(alice, "POST", "/api/v1/checkout", told, {"method": "twice", "mode": mode})
            heard = follow(alice, placed["id"], told, {"stock.sold", "cart.settled", "webhook.repeated"})
            assert heard.count("payment.captured") == heard.count("order.confirmed") == 1
            assert ask(alice, "GET", f"/api/v1/orders/{placed['id']}", told)["status"] == "CONFIRMED"
        ask(alice, "POST", "/api/v1/cart/items", told, {"sku": "PLAY-01", "quantity": 1})
        failed = ask(alice, "POST", "/api/v1/checkout", told, {"method": "fail", "mode": "orchestrated"})
        assert "reservation.released" in follow(alice, failed["id"], told, {"order.canceled"})
        saved = sign_in_and_save(alice, told)
        assert saved["reduction"]["coupon"] == "WELCOME10"
        shelf = ask(alice, "GET", "/api/v1/products/PLAY-01", told)["stock"]
        assert (shelf["reserved"], shelf["sold"]) == (0, 3)  # what the failed order left in the cart, too
        # The gateway itself asks all of them but one, which the checkout asks.
        asked = {*PORTS, "redis RedisBuckets", "redis RedisEntries"} - {"pricing"}
        assert {each["name"] for each in ask(alice, "GET", "/api/v1/backends", told)} >= asked
        kill(told(), "inventory")
        until_open(alice, "inventory")
        assert alice.get("/api/v1/products/PLAY-01").headers["retry-after"]
        for path in ("/", "/cart", "/products/PLAY-01", "/orders"):
            assert alice.get(path).status_code == 200, path


@pytest.fixture(
    params=[pytest.param(RabbitMQ, id="rabbitmq"), pytest.param(ElasticMQ, id="sqs", marks=pytest.mark.soak)]
)
def another_broker(request):
    """A broker of the test's own with its URL.

    SQS's queues are ElasticMQ's. moto's would do too, but a request that waits for messages there takes a key for held
    until it ends, whoever has let go of it meanwhile: each event of an order waits for somebody's time to run out.
    """
    with ExitStack() as stack:
        server = stack.enter_context(started(request.param))
        if isinstance(server, RabbitMQ):
            yield server, stack.enter_context(server.host()).url
        else:
            stack.enter_context(logged_in())
            endpoint = stack.enter_context(fanned_out(server)).url
            yield server, f"sqs://eu-central-1?poll=1&endpoint={endpoint}"


@contextmanager
def up(database, broker, folder, **settings):
    """Every service as a process of its own; gives somebody who visits the shop, and what the processes say."""
    running, port, told = start(database, broker, folder, **settings)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as alice:
            yield alice, told
    finally:
        running.send_signal(signal.SIGTERM)
        ended = running.wait(PATIENCE)
    assert ended == 0, told()[-3000:]


@pytest.mark.server
@pytest.mark.timeout(1200)
def test_orders_over_another_broker(postgres, tmp_path, another_broker):
    """P1, P2: by one setting orders of either kind go over RabbitMQ, or SNS and SQS, through all services."""
    _, broker = another_broker
    with up(postgres, broker, tmp_path) as (alice, told):
        for mode in ("choreographed", "orchestrated"):
            ask(alice, "POST", "/api/v1/cart/items", told, {"sku": "PLAY-01", "quantity": 1})
            placed = ask(alice, "POST", "/api/v1/checkout", told, {"method": "succeed", "mode": mode})
            heard = follow(alice, placed["id"], told, {"stock.sold", "cart.settled"})
            assert heard.count("payment.captured") == heard.count("order.confirmed") == 1


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.server
@pytest.mark.timeout(1200)
def test_the_broker_dies_under_an_open_page(postgres, tmp_path, another_broker, browser):
    """P1, P2, P7, H442: somebody orders while the broker is dead; the page tells the rest when it is back.

    The order is taken all the same, nothing of it is lost, and the page is never loaded again.
    """
    server, broker = another_broker
    with up(postgres, broker, tmp_path) as (alice, told):
        ask(alice, "POST", "/api/v1/cart/items", told, {"sku": "PLAY-01", "quantity": 1})
        placed = ask(alice, "POST", "/api/v1/checkout", told, {"method": "succeed"})
        follow(alice, placed["id"], told, {"order.confirmed", "cart.settled"})
        context = browser.new_context(base_url=str(alice.base_url))
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.goto("/products/PLAY-01")
        page.get_by_role("button", name="Put into the cart").click()
        page.get_by_role("link", name="To the checkout").click()
        page.locator("input[value=succeed]").check()
        server.kill()
        page.get_by_role("button", name="Order and pay").click()
        page.wait_for_url("**/orders/*")
        page.evaluate("window.sameLoad = true")
        assert page.get_by_role("heading", name="Confirmed").count() == 0
        server.start()
        page.get_by_role("heading", name="Confirmed").wait_for()
        page.get_by_text("We took what you bought out of your cart.").wait_for()
        assert page.evaluate("window.sameLoad") is True
        context.close()


def start(database, broker, folder, **settings):
    """Start every service as a process of its own; gives the first, the gateway's port and what they say."""
    name = database.rpartition("/")[0] + f"/shop_{secrets.token_hex(4)}_{{service}}"
    env = os.environ | {f"{service.upper()}_SERVICE_ADDR": free_address() for service in [*PORTS, "bank"]}
    env |= {f"{service.upper()}_HTTP_ADDR": free_address() for service in HTTP_PORTS}
    env |= {"SHOP_DATABASE": name.replace("postgresql://", "postgresql+asyncpg://"), "SHOP_BROKER": broker}
    # A slow machine takes its time, and it is asked again and again until it is up.
    env |= {"SHOP_PAYMENT_WINDOW": "600", "SHOP_LIMIT_CHANGE": "0", "SHOP_LIMIT_CHECKOUT": "0", "SHOP_LIMIT_READ": "0"}
    env |= {"SHOP_DEMO_USERS": "on", **settings}
    port = free_address().rpartition(":")[2]
    command = [sys.executable, "-m", "shop", "up", "--profile", "services", "--headless", "--port", port]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([*command, "--data", str(folder / "shop")], env=env, stdout=log, stderr=log)
    return running, port, partial((folder / "log").read_text)


def sign_in_and_save(client, told):
    """Sign in, and order with a coupon and credit what the visitor put in; gives the order when all is used."""
    ask(client, "POST", "/api/v1/cart/items", told, {"sku": "LIGHT-01", "quantity": 1})
    credentials = {"email": "ada@example.com", "password": DEMO_PASSWORD}
    tokens = ask(client, "POST", "/api/v1/auth/login", told, credentials)
    client.headers["authorization"] = f"Bearer {tokens['access_token']}"
    wish = {"method": "succeed", "coupon": "WELCOME10", "use_credit": True}
    placed = ask(client, "POST", "/api/v1/checkout", told, wish)
    follow(client, placed["id"], told, {"coupon.used", "credit.spent", "order.confirmed", "cart.settled"})
    assert ask(client, "GET", "/api/v1/cart", told)["lines"] == []
    return ask(client, "GET", f"/api/v1/orders/{placed['id']}", told)


def kill(log, service):
    """SIGKILL a service's process, by the id that was told at the start."""
    [process] = re.findall(rf"^  {service} +\S+ \(process (\d+)\)$", log, re.MULTILINE)
    os.kill(int(process), signal.SIGKILL)


def until_open(client, name):
    """Ask for what needs a service until that is taken to be away."""
    deadline = time.monotonic() + PATIENCE
    while {each["name"]: each["state"] for each in client.get("/api/v1/backends").json()}[name] != "open":
        assert time.monotonic() < deadline
        assert client.get("/api/v1/products/PLAY-01").status_code in (200, 503)


def follow(client, order_id, told, until):
    """Wait until an order's story has all these; gives all it has."""
    heard, deadline = [], time.monotonic() + PATIENCE
    while not until <= set(heard):
        assert time.monotonic() < deadline, (heard, told()[-3000:])
        timeline = ask(client, "GET", f"/api/v1/orders/{order_id}/timeline", told)
        heard = [entry["type"] for entry in timeline["entries"]]
        threading.Event().wait(0.2)
    return heard


def ask(client, method, path, told, body=None):
    """Ask until there is an answer: the processes start in any order."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = client.request(method, path, json=body)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < 500:
            assert answer.status_code < 300, answer.text
            return answer.json()
        assert time.monotonic() < deadline, told()[-3000:]
        threading.Event().wait(0.2)
