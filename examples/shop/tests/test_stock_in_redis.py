"""The stock in Redis, filled by a job: the same shop, and the same sums."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from rig.servers.redis import Redis
from rig.started import started
from shop.catalog.seed import products

PLENTY = next(product.sku for product in products(42) if product.stock == 40)
pytestmark = pytest.mark.server


@pytest.fixture
def redis():
    with started(Redis) as server:
        yield server.url


async def load_stock(data, redis):
    command = [sys.executable, "-m", "shop", "job", "load-stock", "--data", str(data)]
    env = os.environ | {"SHOP_STOCK_REDIS": redis}
    done = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def order(client, quantity=1, **wish):
    await client.post("/api/v1/cart/items", json={"sku": PLENTY, "quantity": quantity})
    answer = await client.post("/api/v1/checkout", json={"method": "succeed", **wish})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


async def test_a_shop_sells_from_redis(open_shop, tmp_path, redis):
    """P5: nothing before it is filled; then led by nobody, by a saga or with TCC; filling it again adds nothing."""
    async with open_shop(tmp_path, SHOP_STOCK_REDIS=redis, SHOP_PAYMENT_WINDOW="100") as shop:
        alice = await shop.visitor()
        await shop.until(alice, await order(alice), "order.canceled", "stock.rejected")
        assert await load_stock(tmp_path, redis) == "60 of 60 products are new to Redis; the others stay as they are.\n"
        wishes = [{"mode": "choreographed"}, {"mode": "orchestrated"}, {"coupon": "WELCOME10", "use_credit": True}]
        buying = [(await shop.visitor(), wish) for wish in wishes]
        ordered = [(client, await order(client, 2, **wish)) for client, wish in buying]
        assert (await load_stock(tmp_path, redis)).startswith("0 of 60")
        for client, order_id in ordered:
            await shop.until(client, order_id, "stock.sold", "cart.settled")
        back = await shop.visitor()
        await shop.until(back, await order(back, 3, method="fail", mode="orchestrated"), "order.canceled")
        assert await shop.shelf(alice, PLENTY) == {"available": 34, "reserved": 0, "sold": 6}
        kept = f"select available, reserved, sold from stock_item where item = '{PLENTY}'"
        assert shop.rows("stock", kept) == [(34, 0, 6)], "the ledger has the same"
        assert shop.rows("inventory", f"select available, sold from stock where sku = '{PLENTY}'") == [(40, 0)]


async def test_what_a_lost_transaction_set_aside_comes_back(open_services, tmp_path, redis):
    """P5, H394: Redis has it and the service does not know: a release puts it back all the same."""
    async with open_services(tmp_path, "inventory", SHOP_STOCK_REDIS=redis) as services:
        inventory, stock = services.grpc("inventory"), services.builder.redis_shelf.stock
        await stock.load({PLENTY: 40})
        await stock.reserve("o1", {PLENTY: 5}, datetime.now(UTC) + timedelta(hours=1))
        assert (await inventory.levels([PLENTY]))[0].reserved == 5
        assert (await inventory.release("o1")).state == "released"
        assert (await inventory.levels([PLENTY]))[0].available == 40


def test_a_job_needs_its_redis(tmp_path):
    command = [sys.executable, "-m", "shop", "job", "load-stock", "--data", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "SHOP_STOCK_REDIS"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, "SHOP_STOCK_REDIS" in done.stderr) == (2, True)
