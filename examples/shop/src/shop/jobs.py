"""What is done once, by a command, beside the shop that runs."""

from __future__ import annotations

from functools import partial

import httpx

from shop.bank.post import http_post
from shop.building import Builder
from shop.catalog import seed
from shop.databases import make_database
from shop.inventory.api import InventoryApi
from shop.settings import Settings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing


async def load_stock(settings: Settings) -> tuple[int, int]:
    """Tell Redis of the goods that it does not know yet; gives how many these were, and how many there are.

    Raises:
        StockUnavailable: Redis does not answer.
    """
    client = httpx.AsyncClient()
    builder = Builder(
        settings, MemoryBroker(), client, http_post(client, settings.webhook_url), frozenset({"inventory"})
    )
    api: InventoryApi = builder.api("inventory")
    app, shelf = builder.app_of("inventory"), builder.redis_shelf
    assert shelf is not None, "who loads stock has a Redis"
    async with client:
        try:
            if not app.database.is_sqlite:
                await make_database(settings.database_of("inventory"))
                await make_database(settings.database_of("stock"))
            await app.database.transact(partial(create_missing, target=app.metadata))
            await api.stock_shelves({product.sku: product.stock for product in seed.products(settings.seed)})
            async with shelf:
                return await shelf.load(app)
        finally:
            await app.close()
            builder.telemetry.close()
