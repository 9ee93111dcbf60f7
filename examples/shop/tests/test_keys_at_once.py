"""The same key many times at once, on a real PostgreSQL: SQLite would let one writer in after the other."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime

import pytest

from rig.servers.postgres import Postgres
from rig.started import started
from shop.catalog.seed import products
from shop.money import Money
from shop.ports import CartLine, NewOrder, StockNeed
from shop.problems import Problem
from txpatterns import new_id
from txpatterns.ids import explain

SKU = next(product.sku for product in products(42) if product.stock == 40)
ONE = [StockNeed(sku=SKU, quantity=1)]
PRICE = Money(amount="12.30")
SOON = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgres():
    with started(Postgres) as server:
        yield server.url


def counted(answers, read):
    return Counter(each.kind.slug if isinstance(each, Problem) else read(each) for each in answers)


def servers_of(postgres, prefix):
    """A database of its own for each service."""
    url = postgres.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://")
    return {"SHOP_DATABASE": f"{url}/{prefix}_{os.getpid()}_{{service}}", "SHOP_BROKER": "memory://"}


async def at_once(calls):
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.server
async def test_keys_that_come_many_times_at_once(open_services, tmp_path, postgres):
    """P4, H346: each wish twice and more, beside its own undoing: what there is goes to forty, and money moves once."""
    async with open_services(tmp_path, "inventory", "payment", **servers_of(postgres, "keys")) as services:
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


def wanted(visitor_id):
    price = Money(amount="1.00")
    line = CartLine(id="l", sku=SKU, name="A", quantity=1, unit_price=price, line_total=price)
    return NewOrder(checkout_id=new_id(), visitor_id=visitor_id, cart_version=1, lines=[line], method="silent")


@pytest.mark.server
async def test_orders_are_numbered(open_services, tmp_path, postgres):
    """H389: each order has its own, they grow, and gRPC and SQL have them as they are."""
    async with open_services(tmp_path, "orders", **servers_of(postgres, "numbers")) as services:
        orders = services.grpc("orders")
        made = [await orders.place(wanted(f"v{n}")) for n in range(3)]
        made += await asyncio.gather(*(orders.place(wanted(f"w{n}")) for n in range(20)))
        ids = [order.id for order in made]
        assert len(set(ids)) == 23
        assert ids[:3] == sorted(ids[:3])
        assert all(len(each) == 19 and explain(int(each)).at.year >= 2026 for each in ids)
        assert (await services.straight("orders").get("v0", ids[0])).id == ids[0]


@pytest.mark.server
@pytest.mark.timeout(200)
async def test_one_who_is_new_everywhere_at_once(open_services, tmp_path, postgres):
    """P4, H346: windows of one visitor make one cart with all they put in; one checkout makes one order of it."""
    async with open_services(tmp_path, "cart", "orders", **servers_of(postgres, "new")) as services:
        carts, orders = services.straight("cart"), services.straight("orders")
        answers = await asyncio.gather(*(carts.add("eve", SKU, 1, None) for _ in range(8)))
        assert sorted(cart.version for cart in answers) == list(range(1, 9))
        assert [line.quantity for line in (await carts.get("eve")).lines] == [8]
        wish = wanted("eve")
        placed = await asyncio.gather(*(orders.place(wish) for _ in range(8)))
        assert len({order.id for order in placed}) == 1
        others = await at_once(orders.place(wish.model_copy(update={"checkout_id": new_id()})) for _ in range(8))
        assert counted(others, lambda order: order.id) == {"cart-ordered": 8}
