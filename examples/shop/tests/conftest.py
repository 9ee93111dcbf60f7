import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from playwright import sync_api as playwright

from rig.ports import free_port
from rig.servers.redis import Redis
from rig.skips import judge
from rig.started import started
from shop import building, wiring
from shop.gateway.live import Bell
from shop.gateway.public_ids import OrderIds
from shop.money import Money
from shop.rpc.client import Channels
from shop.rpc.server import Door, serving
from shop.settings import Settings, read_settings
from txpatterns.brokers.memory import MemoryBroker

PATIENCE = 120.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judge(report)
    return report


@dataclass
class OpenShop:
    """A whole shop in this process, without a socket: its web application, its bell, and the bank's post."""

    settings: Settings
    stack: AsyncExitStack
    web: FastAPI = field(init=False)
    bell: Bell = field(init=False)
    posted: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens while the bank's post is on its way."""

    async def visitor(self) -> httpx.AsyncClient:
        """Somebody new, with a cookie jar of their own."""
        transport = httpx.ASGITransport(self.web, raise_app_exceptions=False)
        return await self.stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop.test"))

    async def post(self, body: bytes, headers: dict[str, str]) -> int:
        """The bank's post; what it carried can be posted again by a test."""
        self.posted.append((body, headers))
        if self.meanwhile is not None:
            await self.meanwhile()
        client = await self.visitor()
        answer = await client.post("/webhooks/payments/mock", content=body, headers=headers)
        return answer.status_code

    async def buy(self, client: httpx.AsyncClient, method: str, sku: str = "PLAY-01", quantity: int = 1) -> str:
        """Put something into the cart and order it; gives the order's id."""
        added = await client.post("/api/v1/cart/items", json={"sku": sku, "quantity": quantity})
        assert added.status_code == 201, added.text
        ordered = await client.post("/api/v1/checkout", json={"method": method})
        assert ordered.status_code == 202, ordered.text
        return str(ordered.json()["id"])

    async def until(self, client: httpx.AsyncClient, order_id: str, *types: str) -> list[str]:
        """Wait until the order's timeline has these events; gives all it has."""
        with self.bell.listening(order_id) as ear:
            async with asyncio.timeout(PATIENCE):
                while not set(types) <= set(heard := await self.heard(client, order_id)):
                    await ear.wait(timedelta(seconds=1))
        return heard

    async def heard(self, client: httpx.AsyncClient, order_id: str) -> list[str]:
        answer = await client.get(f"/api/v1/orders/{order_id}/timeline")
        assert answer.status_code == 200, answer.text
        return [entry["type"] for entry in answer.json()["entries"]]

    async def shelf(self, client: httpx.AsyncClient, sku: str) -> dict[str, int]:
        stock = (await client.get(f"/api/v1/products/{sku}")).json()["stock"]
        return {name: stock[name] for name in ("available", "reserved", "sold")}

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        return rows(self.settings.data, service, query)

    def number(self, order_id: str) -> str:
        """What the shop itself calls an order, whose id was shown."""
        ids: OrderIds = self.web.state.context.timeline.ids
        return ids.reveal(order_id)

    async def reprice(self, sku: str, cents: int) -> None:
        """Change a price in the catalogue, as its seller would."""
        await self.web.state.context.services.catalog.set_price(sku, Money.of_minor(cents, "EUR"))

    async def change(self, service: str, query: str) -> None:
        """Write into a service's own database; in a thread, because its one writer may be this loop."""
        await asyncio.to_thread(rows, self.settings.data, service, query)


def rows(data: Path, service: str, query: str) -> list[tuple[Any, ...]]:
    """Ask a service's own database, past its service."""
    with sqlite3.connect(data / f"{service}.db") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


@asynccontextmanager
async def opened(data: Path, **env: str) -> AsyncIterator[OpenShop]:
    usual = {
        "SHOP_BANK_DELAY": "0.05",
        "SHOP_PAYMENT_WINDOW": "600",
        "SHOP_LIMIT_CHECKOUT": "0",
    }  # tests come in crowds
    settings = read_settings(data, 8080, 42, True, usual | env)
    async with AsyncExitStack() as stack:
        made = OpenShop(settings, stack)
        made.web, made.bell = wiring.embedded(settings, made.post)
        await stack.enter_async_context(made.web.router.lifespan_context(made.web))
        yield made


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[OpenShop]:
    """A shop whose bank answers at once and whose orders wait for their payment as long as any machine takes."""
    async with opened(tmp_path) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenShop]:
    """One for all tests of a file that runs in one loop: each comes as new visitors, and minds nobody else's orders."""
    async with opened(tmp_path_factory.mktemp("shop"), SHOP_LIMIT_CHANGE="0", SHOP_LIMIT_READ="0") as made:
        yield made


@pytest.fixture
async def hasty_shop(tmp_path: Path) -> AsyncIterator[OpenShop]:
    """A shop whose orders wait for their payment for a second only."""
    async with opened(tmp_path, SHOP_PAYMENT_WINDOW="1") as made:
        yield made


@pytest.fixture
def open_shop() -> Callable[..., AbstractAsyncContextManager[OpenShop]]:
    return opened


@dataclass
class OpenServices:
    """Some services in this process, and beside each its gRPC server."""

    builder: building.Builder
    addresses: dict[str, str]
    channels: Channels

    def straight(self, name: str) -> Any:
        """The service's own object."""
        return self.builder.api(name)

    def grpc(self, name: str) -> Any:
        """Who talks to the service over a real channel."""
        return self.channels.caller(name, self.addresses[name])

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        return rows(self.builder.settings.data, service, query)


async def _ready() -> None:
    return None


@asynccontextmanager
async def answering(data: Path, *names: str, **env: str) -> AsyncIterator[OpenServices]:
    """Serve these, with what they need themselves. The bank answers at once, and its webhooks go nowhere."""

    async def lost(body: bytes, headers: dict[str, str]) -> int:
        return 204

    settings = read_settings(data, 8080, 42, "SHOP_DATABASE" not in env, {"SHOP_BANK_DELAY": "0"} | env)
    builder = building.Builder(settings, MemoryBroker(), httpx.AsyncClient(), lost, frozenset(building.PORTS))
    apis = {name: builder.api(name) for name in names}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wiring.running(builder))
        doors = [Door(name, api, "127.0.0.1:0", _ready) for name, api in apis.items()]
        addresses = await stack.enter_async_context(serving(doors))
        yield OpenServices(builder, addresses, await stack.enter_async_context(Channels()))


@pytest.fixture
def open_services() -> Callable[..., AbstractAsyncContextManager[OpenServices]]:
    return answering


class Process:
    """`shop up` on a folder; its complaints go to the file `log` beside that folder."""

    def __init__(self, data: Path, **env: str) -> None:
        self.data = data
        usual = {"SHOP_PAYMENT_WINDOW": "12", "SHOP_BANK_DELAY": "0.2", "SHOP_LIMIT_CHECKOUT": "0"}
        self.env = os.environ | usual | env
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.running: subprocess.Popen[str] | None = None
        self.program = ["-m", "shop"]
        """What Python runs; a test may put something in front of the shop."""

    def launch(self, *options: str) -> subprocess.Popen[str]:
        """Start it and wait for nothing."""
        command = [
            sys.executable,
            *self.program,
            "up",
            "--headless",
            "--data",
            str(self.data),
            "--port",
            str(self.port),
        ]
        with (self.data.parent / "log").open("a") as log:
            self.running = subprocess.Popen(
                [*command, *options], env=self.env, stdout=subprocess.PIPE, stderr=log, text=True
            )
        return self.running

    def start(self, *options: str) -> None:
        """Start it and wait until it answers."""
        output = self.launch(*options).stdout
        assert output is not None
        assert "Store" in output.readline(), self.log
        # The socket listens already, so this waits until the shop answers.
        httpx.get(f"{self.url}/health", timeout=120).raise_for_status()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        assert self.running is not None
        assert self.running.stdout is not None
        self.running.send_signal(how)
        self.running.stdout.close()
        return self.running.wait(60)

    def close(self) -> None:
        if self.running is not None and self.running.poll() is None:
            self.end(signal.SIGKILL)

    @property
    def log(self) -> str:
        return (self.data.parent / "log").read_text()[-3000:]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A shop that can be started, ended and killed."""
    made = Process(tmp_path / "shop")
    yield made
    made.close()


@pytest.fixture
def ask() -> Callable[[Path, str, str], list[tuple[Any, ...]]]:
    return rows


@pytest.fixture
def body_of() -> Callable[[tuple[bytes, dict[str, str]]], Any]:
    return lambda posted: json.loads(posted[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as engines:
        opened = engines.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with started(Redis) as server:
        yield server


@pytest.fixture
def own_redis(redis_server: Redis) -> Iterator[Redis]:
    """A real Redis, empty; a test may kill it, and it runs again afterwards."""
    if not redis_server.ours:
        pytest.skip(f"{redis_server} may serve others too: this test would kill it")
    redis_server.empty()
    yield redis_server
    redis_server.heal()
