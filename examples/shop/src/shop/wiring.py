"""Putting the shop together: the only place that knows all services, and in which shape they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI
from sqlalchemy import MetaData
from starlette.applications import Starlette
from starlette.routing import Mount

import shop.bank.app
import shop.bank.models
import shop.cart.app
import shop.cart.models
import shop.catalog.models
import shop.checkout.app
import shop.checkout.models
import shop.gateway.models
import shop.gateway.timeline
import shop.inventory.app
import shop.inventory.models
import shop.orders.app
import shop.orders.models
import shop.payment.app
import shop.payment.models
import shop.pricing.app
import shop.pricing.models
import shop.wallet.app
import shop.wallet.models
from shop import ports
from shop.bank.api import BankApi, Temper
from shop.bank.app import Post
from shop.bank.domain import Method
from shop.bank.post import http_post
from shop.calls import caller, serve
from shop.cart.api import CartApi
from shop.catalog import seed
from shop.catalog.api import CatalogApi
from shop.checkout.api import CheckoutApi
from shop.checkout.others import CheckoutOthers
from shop.checkout.placing import Placing
from shop.checkout.reserving import remote_participants
from shop.checkout.saving import Savings
from shop.checkout.steps import StepNotes
from shop.gateway.app import create_app
from shop.gateway.context import Context, Services
from shop.gateway.live import Bell
from shop.gateway.render import environment
from shop.gateway.retention import keys_of, prune_keys, prune_stories
from shop.gateway.timeline import Timeline
from shop.health import check
from shop.inventory.api import InventoryApi
from shop.inventory.shelf import OwnShelf, Shelf
from shop.orders.api import OrdersApi
from shop.participating import participants_of
from shop.payment.api import PaymentsApi
from shop.payment.retention import prune_webhooks
from shop.pricing.api import PricingApi
from shop.pricing.domain import DEMO
from shop.pruning import Prune, prune_forever, prune_once
from shop.rpc.client import Channels
from shop.rpc.server import Door, serving
from shop.rpc.services import SERVICES
from shop.server import on_loopback
from shop.settings import Settings
from shop.stumbles import Stumbles
from shop.units import Unit, make_database, together
from shop.wallet.api import WalletApi
from txpatterns import App, AppSettings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing
from txpatterns.retries import FailurePolicies

if TYPE_CHECKING:
    from shop.inventory.redis_shelf import RedisShelf

PORTS: Mapping[str, type[Any]] = {
    "catalog": ports.Catalog,
    "cart": ports.Carts,
    "inventory": ports.Inventory,
    "orders": ports.Orders,
    "bank": ports.Bank,
    "payment": ports.Payments,
    "pricing": ports.Pricing,
    "wallet": ports.Wallets,
    "checkout": ports.Checkouts,
}
"""The services in an order in which each finds those that it calls."""

ASKED = ("inventory", "payment")
"""Those that the checkout's saga calls."""
RESERVING = ("inventory", "pricing", "wallet")
"""Those that take part in its transactions."""

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
    "pricing": shop.pricing.models.Base.metadata,
    "wallet": shop.wallet.models.Base.metadata,
    "checkout": shop.checkout.models.Base.metadata,
    "gateway": shop.gateway.models.Base.metadata,
}


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
        self.settings = settings
        self.broker = broker
        self.client = client
        self.channels = Channels()
        self.post = post
        self.local = local
        self.app_settings = AppSettings.from_environment()
        self.units: list[Unit] = []
        self.fills: list[Callable[[], Awaitable[None]]] = []
        self.others: CheckoutOthers | None = None
        """Who the checkout asks, where that is in this process."""
        self.redis_shelf: RedisShelf | None = None
        """Where the goods are, if not in the inventory's own tables."""
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
        shop.gateway.timeline.listen(app, bell)
        services = Services(
            catalog=self.api("catalog"),
            carts=self.api("cart"),
            inventory=self.api("inventory"),
            orders=self.api("orders"),
            payments=self.api("payment"),
            checkouts=self.api("checkout"),
            wallets=self.api("wallet"),
        )
        keys, settings = keys_of(app), self.settings
        return Context(app, services, Timeline(app, bell), keys, environment(), settings.window, settings.checkout)

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
            hooks=[stumbles, *notes],
            settings=self.app_settings,
        )
        self.units.append(Unit(name, app, [stumbles, *notes], prunes))
        return app

    def _catalog(self) -> CatalogApi:
        api = CatalogApi(self._app("catalog"))
        self.fills.append(partial(api.stock_shelves, self.settings.seed))
        return api

    def _inventory(self) -> InventoryApi:
        app, shelf = self._app("inventory"), self.shelf()
        shop.inventory.app.listen(app, shelf)
        shop.inventory.app.take_part(app, shelf)
        api = InventoryApi(app, shelf)
        stock = {product.sku: product.stock for product in seed.products(self.settings.seed)}
        self.fills.append(partial(api.stock_shelves, stock))
        return api

    def shelf(self) -> Shelf:
        """Build where the goods are."""
        if not self.settings.redis:
            return OwnShelf()
        # By its name: a shop without Redis needs no client of it.
        made = import_module("shop.inventory.redis_shelf").RedisShelf
        shelf: RedisShelf = made(self.settings.redis, self.settings.database_of("stock"))
        self.redis_shelf = shelf
        return shelf

    def _orders(self) -> OrdersApi:
        app = self._app("orders")
        shop.orders.app.listen(app)
        return OrdersApi(app, self.settings.window)

    def _bank(self) -> BankApi:
        app = self._app("bank")
        # With a database of its own: a handler keeps its transaction while it posts, and on SQLite that shuts out all
        # other writers of the file, among them the charge that the shop asks for before it takes the next webhook.
        shop.bank.app.listen(self._app("postman"), self.settings.webhook_secret, self.post)
        return BankApi(app, Temper(self.settings.seed, self.settings.think))

    def _cart(self) -> CartApi:
        app = self._app("cart")
        shop.cart.app.listen(app)
        return CartApi(app, self.api("catalog"))

    def _payment(self) -> PaymentsApi:
        app = self._app("payment", prune_webhooks)
        shop.payment.app.listen(app, self.api("bank"))
        return PaymentsApi(app, self.api("bank"), self.settings.webhook_secret)

    def _pricing(self) -> PricingApi:
        app = self._app("pricing")
        shop.pricing.app.take_part(app)
        api = PricingApi(app)
        self.fills.append(partial(api.print_coupons, DEMO))
        return api

    def _wallet(self) -> WalletApi:
        app = self._app("wallet")
        shop.wallet.app.take_part(app)
        return WalletApi(app)

    def _checkout(self) -> CheckoutApi:
        app = self._app("checkout", notes=[StepNotes()])
        all_here = self.local.issuperset([*ASKED, *RESERVING])
        self.others = CheckoutOthers(self.api("inventory"), self.api("payment"), all_here)
        shop.checkout.app.listen(app, self.others)
        savings = Savings(self.api("pricing"), self.api("wallet"))
        placing = Placing(
            self.api("cart"),
            self.api("catalog"),
            self.api("orders"),
            savings,
            frozenset(Method),
            self.settings.checkout,
        )
        return CheckoutApi(app, placing)


@asynccontextmanager
async def running(builder: Builder) -> AsyncIterator[None]:
    """Make missing tables, fill empty shelves, and run relays, consumers and timers for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(builder.client)
        await stack.enter_async_context(builder.channels)
        for unit in builder.units:
            # Closed when all have stopped: until then one may call another, which opens a connection again.
            stack.push_async_callback(unit.app.close)
        for unit in builder.units:
            if not unit.app.database.is_sqlite:  # there, the App makes all that is missing
                await make_database(builder.settings.database_of(unit.name))
                await unit.app.database.transact(partial(create_missing, target=unit.app.metadata))
        if builder.others is not None:
            await stack.enter_async_context(_asking(builder, builder.others))
        if builder.redis_shelf is not None:
            if "sqlite" not in builder.settings.database:
                await make_database(builder.settings.database_of("stock"))
            await stack.enter_async_context(builder.redis_shelf)
        await stack.enter_async_context(together(builder.units))
        for fill in builder.fills:
            await fill()
        for unit in builder.units:
            await prune_once(unit.app, unit.prunes, datetime.now(UTC))
        aside = [notes.tell(unit.app) for unit in builder.units for notes in unit.notes]
        aside += [prune_forever(unit.app, unit.prunes) for unit in builder.units]
        if builder.redis_shelf is not None:
            aside.append(builder.redis_shelf.sweep_forever(builder.app_of("inventory")))
        tasks = [asyncio.create_task(work) for work in aside]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _asking(builder: Builder, others: CheckoutOthers) -> AsyncIterator[None]:
    """Let the checkout ask the others, as from another process also where they are in this one: at loopback's ports."""
    async with AsyncExitStack() as stack:
        urls = {name: f"http://{builder.settings.http_addresses[name]}/tcc" for name in RESERVING}
        if others.over_loopback:
            await stack.enter_async_context(_calls_on_loopback(builder, others))
            secret = builder.settings.tcc_secret
            doors = [Mount(f"/{name}", participants_of(builder.app_of(name), secret)) for name in RESERVING]
            address = await stack.enter_async_context(on_loopback(Starlette(routes=doors)))
            urls = {name: f"http://{address}/{name}/tcc" for name in RESERVING}
        others.reserving = remote_participants(builder.app_of("checkout"), urls, builder.settings.tcc_secret)
        yield


@asynccontextmanager
async def _calls_on_loopback(builder: Builder, others: CheckoutOthers) -> AsyncIterator[None]:
    doors = [replace(door, address="127.0.0.1:0") for door in builder.doors() if door.name in ASKED]
    async with serving(doors) as addresses:
        inventory, payment = (builder.channels.caller(name, addresses[name]) for name in ASKED)
        others.inventory, others.payments = inventory, payment
        yield


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
    api, app = builder.api(name), builder.app_of(name)
    reserving = participants_of(app, settings.tcc_secret) if name in RESERVING else None
    return serve(PORTS[name], api, lambda _: answering(builder, told), partial(check, app), reserving)


def _web(builder: Builder, told: Told | None = None) -> tuple[FastAPI, Bell]:
    context = builder.gateway()
    web = create_app(context, builder.settings.cookie_secret, lambda _: answering(builder, told))
    return web, context.timeline.bell
