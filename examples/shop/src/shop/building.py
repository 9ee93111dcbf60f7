"""Building the services: the only place that knows them all, and whom each of them asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import httpx
from sqlalchemy import MetaData

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
import shop.pricing.app
import shop.pricing.models
import shop.users.models
import shop.wallet.app
import shop.wallet.models
from shop import events, ports
from shop.backends import Breakers, Explained, Guarded
from shop.bank.api import BankApi, Temper
from shop.bank.app import Post
from shop.bank.domain import Method
from shop.calls import caller
from shop.cart.api import CartApi
from shop.catalog import seed
from shop.catalog.api import CatalogApi
from shop.checkout.api import CheckoutApi
from shop.checkout.others import CheckoutOthers
from shop.checkout.placing import Placing
from shop.checkout.saga import ANSWER
from shop.checkout.saving import Savings
from shop.checkout.steps import StepNotes
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
from shop.inventory.redis_shelf import RedisShelf
from shop.inventory.shelf import OwnShelf, Shelf
from shop.orders.api import OrdersApi
from shop.payment.api import PaymentsApi
from shop.payment.retention import prune_webhooks
from shop.pricing.api import PricingApi
from shop.pricing.domain import DEMO
from shop.pruning import Prune
from shop.rpc.client import Channels
from shop.rpc.server import Door
from shop.rpc.services import SERVICES
from shop.settings import Settings
from shop.stumbles import Stumbles
from shop.telemetry import Telemetry
from shop.tokens import AccessTokens
from shop.units import Unit
from shop.users.api import Tools, UsersApi
from shop.users.retention import prune_sessions
from shop.users.seed import DEMO_PASSWORD, DEMO_USERS
from shop.wallet.api import WalletApi
from txpatterns import App, AppSettings, Event
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
    "pricing": ports.Pricing,
    "wallet": ports.Wallets,
    "checkout": ports.Checkouts,
    "users": ports.Users,
}
"""The services in an order in which each finds those that it calls."""

ASKED = ("inventory", "payment")
"""Those that the checkout's saga calls."""
RESERVING = ("inventory", "pricing", "wallet")
"""Those that take part in its transactions."""

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
    "users": shop.users.models.Base.metadata,
    "gateway": shop.gateway.models.Base.metadata,
}


READERS: Mapping[str, Sequence[type[Event]]] = {
    "gateway": (
        events.CartChanged,
        events.ProductChanged,
        events.CheckoutCompleted,
        events.OrderCreated,
        events.PaymentCaptured,
        events.HandlerStumbled,
    ),
    "cart": (events.CheckoutCompleted, events.OrderConfirmed),
    "inventory": (events.OrderCreated,),
    "orders": (
        events.CheckoutCompleted,
        events.StockRejected,
        events.PaymentCaptured,
        events.PaymentWindowClosed,
    ),
    "payment": (events.OrderCreated, events.RefundRequested, events.SettlementDue),
    "postman": (events.WebhookDue,),
    "checkout": (events.CheckoutRequested, events.PaymentCaptured),
}
"""Who reads what: an event of each topic. Whoever starts first tells the broker, so that nobody misses anything."""


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
            wallets=self.asked("wallet", app),
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
        for group, read in READERS.items():
            app.declare(group, *read)
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
        app, shelf = self._app("inventory"), self.shelf()
        shop.inventory.app.listen(app, shelf)
        shop.inventory.app.take_part(app, shelf)
        api = InventoryApi(app, shelf)
        stock = {product.sku: product.stock for product in seed.products(self.settings.seed)}
        self.fills.append(partial(api.stock_shelves, stock))
        return api

    def shelf(self) -> Shelf:
        """Build where the goods are."""
        if self.settings.stock_redis is None:
            return OwnShelf()
        self.redis_shelf = RedisShelf(self.settings.stock_redis, self.settings.database_of("stock"))
        return self.redis_shelf

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
        inventory, payment = (self.led(name, app, self.api(name)) for name in ASKED)
        self.others = CheckoutOthers(inventory, payment, self.local.issuperset([*ASKED, *RESERVING]))
        shop.checkout.app.listen(app, self.others)
        savings = Savings(self.asked("pricing", app), self.asked("wallet", app))
        placing = Placing(
            self.asked("cart", app),
            self.asked("catalog", app),
            self.asked("orders", app),
            savings,
            frozenset(Method),
            self.settings.checkout,
        )
        return CheckoutApi(app, placing)

    def _users(self) -> UsersApi:
        tools = Tools.made(self.settings.token_secrets, self.settings.access_lasts)
        api = UsersApi(self._app("users", prune_sessions), tools)
        self.fills.append(partial(api.open_accounts, DEMO_USERS if self.settings.demo_users else []))
        return api
