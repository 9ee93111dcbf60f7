"""Putting the shop together: the only place that knows all services, and in which shape they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI
from sqlalchemy import MetaData
from starlette.applications import Starlette

import shop.bank.app
import shop.bank.models
import shop.cart.app
import shop.cart.models
import shop.catalog.models
import shop.checkout.app
import shop.checkout.models
import shop.gateway.models
import shop.gateway.remembered
import shop.gateway.timeline
import shop.inventory.app
import shop.inventory.models
import shop.orders.app
import shop.orders.models
import shop.payment.app
import shop.payment.models
import shop.users.models
from shop import ports
from shop.backends import Breakers, Explained, Guarded
from shop.bank.api import BankApi, Temper
from shop.bank.app import Post
from shop.bank.domain import Method
from shop.calls import caller, serve
from shop.cart.api import CartApi
from shop.catalog import seed
from shop.catalog.api import CatalogApi
from shop.checkout.api import CheckoutApi
from shop.checkout.placing import Placing
from shop.checkout.saga import ANSWER
from shop.checkout.steps import StepNotes
from shop.databases import make_database
from shop.gateway.app import create_app
from shop.gateway.context import Context, Services
from shop.gateway.live import Bell
from shop.gateway.pacing import Pace
from shop.gateway.public_ids import OrderIds, ShownCheckouts, ShownOrders
from shop.gateway.remembered import ALONE, USUAL, remember_carts, remember_catalog
from shop.gateway.render import environment
from shop.gateway.retention import keys_of, prune_keys, prune_stories
from shop.gateway.timeline import Timeline
from shop.health import check
from shop.inventory.api import InventoryApi
from shop.orders.api import OrdersApi
from shop.payment.api import PaymentsApi
from shop.payment.retention import prune_webhooks
from shop.pruning import Prune, prune_forever, prune_once
from shop.rpc.client import Channels
from shop.rpc.server import Door, serving
from shop.rpc.services import SERVICES
from shop.settings import Settings
from shop.stumbles import Stumbles
from shop.telemetry import Telemetry
from shop.tokens import AccessTokens
from shop.units import Unit, together
from shop.users.api import Tools, UsersApi
from shop.users.retention import prune_sessions
from shop.users.seed import DEMO_PASSWORD, DEMO_USERS
from txpatterns import App, AppSettings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing
from txpatterns.resilience import RedisBuckets, RedisEntries
from txpatterns.retries import FailurePolicies

R = TypeVar("R", RedisBuckets, RedisEntries)

PORTS: Mapping[str, type[Any]] = {
    "catalog": ports.Catalog,
    "cart": ports.Carts,
    "inventory": ports.Inventory,
    "orders": ports.Orders,
    "bank": ports.Bank,
    "payment": ports.Payments,
    "checkout": ports.Checkouts,
    "users": ports.Users,
}
"""The services in an order in which each finds those that it calls."""

ASKED = ("inventory", "payment")
"""Those that the checkout's saga calls."""

SHORT_LEASE = timedelta(seconds=5)
"""How soon the one process of the embedded shop takes up the work of its killed predecessor."""
STOP_WITHIN = timedelta(seconds=5)
"""How long the embedded shop finishes what is under way when it is closed; the rest waits in its folder."""

TABLES: Mapping[str, MetaData] = {
    "catalog": shop.catalog.models.Base.metadata,
    "cart": shop.cart.models.Base.metadata,
    "inventory": shop.inventory.models.Base.metadata,
    "orders": shop.orders.models.Base.metadata,
    "bank": shop.bank.models.Base.metadata,
    "postman": MetaData(),
    "payment": shop.payment.models.Base.metadata,
    "checkout": shop.checkout.models.Base.metadata,
    "users": shop.users.models.Base.metadata,
    "gateway": shop.gateway.models.Base.metadata,
}


@dataclass(slots=True)
class CheckoutOthers:
    """Who the checkout's saga asks for something."""

    inventory: ports.Inventory
    payments: ports.Payments
    over_grpc: bool = False
    """Whether they live in this process, and are to be asked over loopback all the same, as from another one."""


class Builder:
    """Builds services, each once, and gives each the others it calls: its neighbour's object, or a caller to it.

    Args:
        settings: The shop's settings.
        broker: One broker that all Apps of this process share, or a URL.
        client: What calls other processes.
        post: How the bank posts its webhooks.
        local: Which services live in this process.
    """

    def __init__(
        self, settings: Settings, broker: Any, client: httpx.AsyncClient, post: Post, local: frozenset[str]
    ) -> None:
        self.telemetry = Telemetry()
        self.settings = settings
        self.broker = broker
        self.client = client
        self.channels = Channels()
        self.post = post
        self.local = local
        self.app_settings = AppSettings.from_environment()
        self.units: list[Unit] = []
        self.fills: list[Callable[[], Awaitable[None]]] = []
        self.breakers = Breakers(settings.away)
        self.aside: list[AbstractAsyncContextManager[object]] = []
        """What is opened before the Apps run, and closed behind them."""
        self.endings: list[Callable[[], None]] = []
        """What is ended when all have stopped."""
        self.others: CheckoutOthers | None = None
        """Who the checkout asks, where that is in this process."""
        self._apis: dict[str, Any] = {}

    def api(self, name: str) -> Any:
        """Give what answers for a service, here or in another process."""
        if name not in self._apis:
            if name in self.local:
                self._apis[name] = getattr(self, f"_{name}")()
            elif name in SERVICES:
                self._apis[name] = self.channels.caller(name, self.settings.addresses[name])
            else:
                self._apis[name] = caller(PORTS[name], self.client, self.settings.http_addresses[name])
        return self._apis[name]

    def asked(self, name: str, by: App) -> Any:
        """Give what answers for a service, behind its breaker, to an App that shows people what goes wrong."""
        return Explained(self.api(name), self.breakers.of(name, by.hooks))

    def led(self, name: str, by: App, api: Any) -> Any:
        """Give what answers for a service, behind its breaker, to a saga: it waits where the call was not made."""
        return Guarded(api, self.breakers.of(name, by.hooks), ANSWER)

    def doors(self) -> list[Door]:
        """Give what answers by gRPC out of the services that were built here."""
        return [
            Door(name, self.api(name), self.settings.addresses[name], partial(check, self.app_of(name)))
            for name in SERVICES
            if name in self.local and name in self._apis
        ]

    def gateway(self) -> Context:
        """Build the gateway."""
        app, bell = self._app("gateway", prune_keys, prune_stories), Bell()
        entries, ttl = self._shared(RedisEntries, app), USUAL if self.settings.redis or self.local else ALONE
        carts = remember_carts(self.asked("cart", app), entries, ttl, app.hooks)
        catalog = remember_catalog(self.asked("catalog", app), entries, ttl, app.hooks)
        shop.gateway.remembered.listen(app, carts, catalog)
        ids = OrderIds(self.settings.id_key)
        shop.gateway.timeline.listen(app, bell, carts, ids)
        services = Services(
            catalog=catalog,
            carts=carts,
            inventory=self.asked("inventory", app),
            orders=ShownOrders(self.asked("orders", app), ids),
            payments=self.asked("payment", app),
            checkouts=ShownCheckouts(self.asked("checkout", app), ids),
            users=self.asked("users", app),
        )
        keys, settings = keys_of(app), self.settings
        return Context(
            app,
            services,
            Timeline(app, bell, ids),
            keys,
            environment(),
            settings.window,
            settings.checkout,
            pace=Pace(settings.limits, self._shared(RedisBuckets, app), app.hooks),
            breakers=self.breakers,
            telemetry=self.telemetry,
            tokens=AccessTokens(settings.token_secrets, settings.access_lasts),
            demo_password=DEMO_PASSWORD if settings.demo_users else None,
        )

    def app_of(self, name: str) -> App:
        """Give the App of a service that was built here."""
        return next(unit.app for unit in self.units if unit.name == name)

    def _app(self, name: str, *prunes: Prune, notes: Sequence[StepNotes] = ()) -> App:
        policies = FailurePolicies()
        stumbles = Stumbles(name, policies)
        app = App(
            name,
            database=self.settings.database_of(name),
            broker=self.broker,
            metadata=TABLES[name],
            policies=policies,
            hooks=[*self.telemetry.hooks(name), stumbles, *notes],
            settings=self.app_settings,
        )
        self.units.append(Unit(name, app, [stumbles, *notes], prunes))
        return app

    def _shared(self, kind: Callable[..., R], app: App) -> R | None:
        """Make what several processes share, where there is a Redis."""
        if self.settings.redis is None:
            return None
        made = kind(self.settings.redis, hooks=app.hooks)
        self.aside.append(made)
        self.breakers.also(made.breaker)
        return made

    def _catalog(self) -> CatalogApi:
        api = CatalogApi(self._app("catalog"))
        self.fills.append(partial(api.stock_shelves, self.settings.seed))
        return api

    def _inventory(self) -> InventoryApi:
        app = self._app("inventory")
        shop.inventory.app.listen(app)
        api = InventoryApi(app)
        stock = {product.sku: product.stock for product in seed.products(self.settings.seed)}
        self.fills.append(partial(api.stock_shelves, stock))
        return api

    def _orders(self) -> OrdersApi:
        app = self._app("orders")
        shop.orders.app.listen(app)
        api = OrdersApi(app, self.settings.window)
        self.endings.append(api.blocks.close)
        return api

    def _bank(self) -> BankApi:
        app = self._app("bank")
        # With a database of its own: a handler keeps its transaction while it posts, and on SQLite that shuts out all
        # other writers of the file, among them the charge that the shop asks for before it takes the next webhook.
        shop.bank.app.listen(self._app("postman"), self.settings.webhook_secret, self.post)
        return BankApi(app, Temper(self.settings.seed, self.settings.think))

    def _cart(self) -> CartApi:
        app = self._app("cart")
        shop.cart.app.listen(app)
        return CartApi(app, self.asked("catalog", app))

    def _payment(self) -> PaymentsApi:
        app = self._app("payment", prune_webhooks)
        shop.payment.app.listen(app, self.api("bank"))
        return PaymentsApi(app, self.api("bank"), self.settings.webhook_secret)

    def _checkout(self) -> CheckoutApi:
        app = self._app("checkout", notes=[StepNotes()])
        inventory, payment = (self.led(name, app, self.api(name)) for name in ASKED)
        self.others = CheckoutOthers(inventory, payment, self.local.issuperset(ASKED))
        shop.checkout.app.listen(app, self.others)
        placing = Placing(
            self.asked("cart", app),
            self.asked("catalog", app),
            self.asked("orders", app),
            frozenset(Method),
            self.settings.checkout,
        )
        return CheckoutApi(app, placing)

    def _users(self) -> UsersApi:
        tools = Tools.made(self.settings.token_secrets, self.settings.access_lasts)
        api = UsersApi(self._app("users", prune_sessions), tools)
        self.fills.append(partial(api.open_accounts, DEMO_USERS if self.settings.demo_users else []))
        return api


@asynccontextmanager
async def running(builder: Builder) -> AsyncIterator[None]:
    """Make missing tables, fill empty shelves, and run relays, consumers and timers for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        stack.callback(builder.telemetry.close)
        await stack.enter_async_context(builder.client)
        await stack.enter_async_context(builder.channels)
        for end in builder.endings:
            stack.callback(end)
        for each in builder.aside:
            await stack.enter_async_context(each)
        for unit in builder.units:
            # Closed when all have stopped: until then one may call another, which opens a connection again.
            stack.push_async_callback(unit.app.close)
        for unit in builder.units:
            if not unit.app.database.is_sqlite:  # there, the App makes all that is missing
                await make_database(builder.settings.database_of(unit.name))
                await unit.app.database.transact(partial(create_missing, target=unit.app.metadata))
        if builder.others is not None and builder.others.over_grpc:
            await stack.enter_async_context(_on_loopback(builder, builder.others))
        await stack.enter_async_context(together(builder.units))
        for fill in builder.fills:
            await fill()
        for unit in builder.units:
            await prune_once(unit.app, unit.prunes, datetime.now(UTC))
        aside = [notes.tell(unit.app) for unit in builder.units for notes in unit.notes]
        aside += [prune_forever(unit.app, unit.prunes) for unit in builder.units]
        tasks = [asyncio.create_task(work) for work in aside]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _on_loopback(builder: Builder, others: CheckoutOthers) -> AsyncIterator[None]:
    """Let the checkout ask for stock and payments over gRPC, though they are in this process: at ports of their own."""
    doors = [replace(door, address="127.0.0.1:0") for door in builder.doors() if door.name in ASKED]
    async with serving(doors) as addresses:
        app = builder.app_of("checkout")
        inventory, payment = (builder.led(name, app, builder.channels.caller(name, addresses[name])) for name in ASKED)
        others.inventory, others.payments = inventory, payment
        yield


def http_post(client: httpx.AsyncClient, url: str) -> Post:
    """Make the bank's way to the shop: over HTTP."""

    async def post(body: bytes, headers: dict[str, str]) -> int:
        answer = await client.post(url, content=body, headers=headers, timeout=10.0)
        return answer.status_code

    return post


Told = Callable[[Mapping[str, str]], None]
"""Hears at which addresses the services answer by gRPC, by their names."""


@asynccontextmanager
async def answering(builder: Builder, told: Told | None) -> AsyncIterator[None]:
    """Run, and answer by gRPC too where somebody wants to know at which addresses."""
    async with running(builder), serving(builder.doors() if told else []) as addresses:
        if told:
            told(addresses)
        yield


def embedded(settings: Settings, post: Post | None = None, told: Told | None = None) -> tuple[FastAPI, Bell]:
    """Build the whole shop in one process, on one in-memory broker."""
    client = httpx.AsyncClient()
    everybody = frozenset(PORTS)
    builder = Builder(settings, MemoryBroker(), client, post or http_post(client, settings.webhook_url), everybody)
    # Nobody else works on these files, so after a crash there is nobody to wait for.
    usual = builder.app_settings
    builder.app_settings = replace(
        usual,
        relay=replace(usual.relay, lease=SHORT_LEASE),
        consumer=replace(usual.consumer, lease_ttl=SHORT_LEASE, stop_within=STOP_WITHIN),
        # No grace: the checkout asks the bank by itself before it takes silence for an answer.
        sagas=replace(usual.sagas, lease_ttl=SHORT_LEASE, stop_within=STOP_WITHIN, timeout_grace=timedelta(0)),
        stop_within=STOP_WITHIN,
    )
    return _web(builder, told)


def gateway(settings: Settings) -> tuple[FastAPI, Bell]:
    """Build the gateway alone; the services are other processes."""
    client = httpx.AsyncClient()
    return _web(Builder(settings, settings.broker, client, http_post(client, settings.webhook_url), frozenset()))


def service(settings: Settings, name: str, told: Told) -> Starlette:
    """Build one service alone; the others are other processes."""
    client = httpx.AsyncClient()
    post = http_post(client, settings.webhook_url)
    builder = Builder(settings, settings.broker, client, post, frozenset({name}))
    api = builder.api(name)
    ready = partial(check, builder.app_of(name))
    return serve(PORTS[name], api, lambda _: answering(builder, told), ready, builder.telemetry)


def _web(builder: Builder, told: Told | None = None) -> tuple[FastAPI, Bell]:
    context = builder.gateway()
    web = create_app(context, builder.settings.cookie_secret, lambda _: answering(builder, told))
    return web, context.timeline.bell
