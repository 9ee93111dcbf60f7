"""The same key many times at once, on a real PostgreSQL: SQLite would let one writer in after the other."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime

import pytest

from rig.lookup import Missing
from rig.servers.postgres import Postgres
from rig.watchdog import Watchdog
from shop.catalog.seed import products
from shop.money import Money
from shop.ports import StockNeed
from shop.problems import Problem

SKU = next(product.sku for product in products(42) if product.stock == 40)
ONE = [StockNeed(sku=SKU, quantity=1)]
PRICE = Money(amount="12.30")
SOON = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgres():
    watchdog = Watchdog()
    try:
        server = Postgres.take(watchdog)
    except Missing as missing:
        pytest.skip(str(missing))
    server.start()
    yield server.url
    server.close()
    watchdog.close()


def counted(answers, read):
    return Counter(each.kind.slug if isinstance(each, Problem) else read(each) for each in answers)


async def at_once(calls):
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.server
@pytest.mark.timeout(200)
async def test_keys_that_come_many_times_at_once(open_services, tmp_path, postgres):
    """P4, H346: each wish twice and more, beside its own undoing: what there is goes to forty, and money moves once."""
    name = (
        postgres.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://")
        + f"/keys_{os.getpid()}_{{service}}"
    )
    servers = {"SHOP_DATABASE": name, "SHOP_BROKER": "memory://"}
    async with open_services(tmp_path, "inventory", "payment", **servers) as services:
        stock, payments = services.grpc("inventory"), services.grpc("payment")
        made = await at_once(stock.reserve(f"o{number % 60}", ONE, SOON) for number in range(120))
        assert counted(made, lambda held: held.state) == {"reserved": 80, "out-of-stock": 40}
        assert len({each.order_id for each in made if not isinstance(each, Problem)}) == 40
        held = next(each.order_id for each in made if not isinstance(each, Problem))
        ended = await at_once(stock.confirm(held) if number % 2 else stock.release(held) for number in range(10))
        assert sorted(counted(ended, lambda held: held.state).values()) == [5, 5]
        (level,) = await stock.levels([SKU])
        assert (level.available + level.sold, level.reserved) == (1, 39)
        wishes = (
            payments.charge("k", "order", PRICE, "succeed", SOON)
            if number % 3
            else payments.refund("k", "order", PRICE, "succeed")
            for number in range(15)
        )
        stood = counted(await at_once(wishes), lambda charge: charge.status)
        assert set(stood) <= {"pending", "captured", "failed", "refunded"}, stood
        assert (await payments.find("k")).status in ("failed", "refunded")
        calls = [payments.charge("k2", "order-2", PRICE, "succeed", SOON) for _ in range(10)]
        charges = await at_once(calls)
        assert len({charge.id for charge in charges}) == 1
