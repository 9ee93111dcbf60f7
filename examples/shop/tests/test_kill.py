"""The whole shop as one process, killed at random moments and started again on the same folder."""

import os
import random
import signal
import threading
import time

import httpx
import pytest

from shop.catalog.seed import products
from shop.gateway.public_ids import OrderIds
from shop.own_secrets import read_id_key

MODES = ["choreographed", "orchestrated"]
METHODS = ["succeed", "succeed", "twice", "reordered", "fail", "lost", "card"]
KILLS = 3
AT_ONCE = 4
PATIENCE = 120.0
SEEDS = [int(seed) for seed in os.environ.get("SHOP_KILL_SEEDS", "20 21").split()]
"""When the kills come. Others than these: SHOP_KILL_SEEDS="1 2 3" pytest examples/shop/tests/test_kill.py"""


class Customer(threading.Thread):
    """Buys one thing after another, and asks again with the same key when no answer comes."""

    def __init__(self, url, seed, done):
        super().__init__(daemon=True)
        self.url, self.random, self.done = url, random.Random(seed), done
        self.orders = {}
        self.open = []
        self.client = httpx.Client(base_url=url, timeout=20)

    def run(self):
        number = 0
        while not self.done.is_set():
            number += 1
            item = {"sku": f"PLAY-0{self.random.randint(1, 3)}", "quantity": self.random.randint(1, 2)}
            body = {"method": self.random.choice(METHODS), "mode": self.random.choice(MODES)}
            self.ask("POST", "/api/v1/cart/items", item)
            answer = self.ask("POST", "/api/v1/checkout", body, {"Idempotency-Key": f"k{number}"})
            if answer is not None and answer.status_code == 202:
                self.orders[f"k{number}"] = answer.json()["id"]
                self.open.append(answer.json()["id"])
            self.ask("DELETE", "/api/v1/cart", None)
            self.done.wait(self.random.random() / 4)
            while len(self.open) >= AT_ONCE and not self.done.is_set():
                self.look_at_the_oldest()
        self.client.close()

    def look_at_the_oldest(self):
        """Order no faster than the shop sells, however slow the machine is."""
        answer = self.ask("GET", f"/api/v1/orders/{self.open[0]}", None)
        if answer is not None and answer.json()["status"] in ("CONFIRMED", "CANCELED"):
            del self.open[0]
        else:
            self.done.wait(0.1)

    def ask(self, method, path, body, headers=None):
        while not self.done.is_set():
            try:
                answer = self.client.request(method, path, json=body, headers=headers)
            except httpx.TransportError:
                self.done.wait(0.1)
                continue
            if answer.status_code < 500:
                return answer
        return None


def unsettled(ask, data):
    waiting = ask(data, "orders", "select count(*) from shop_order where status in ('PENDING', 'PAID')")[0][0]
    moving = "('waiting', 'open', 'captured', 'refunding')"
    leading = ask(data, "checkout", "select count(*) from txp_saga where ended_at is null")[0][0]
    refunds = ask(data, "payment", f"select count(*) from payment where status in {moving}")
    orders = dict(ask(data, "orders", "select id, status from shop_order"))
    paid = ask(data, "payment", "select order_id from payment where status in ('open', 'captured', 'refunding')")
    owed = sum(1 for (order,) in paid if orders[order] != "CONFIRMED")
    reserved = ask(data, "inventory", "select sum(reserved) from stock")[0][0]
    rows = sum(ask(data, name, "select count(*) from txp_outbox")[0][0] for name in ("orders", "inventory", "payment"))
    return waiting + leading + owed + reserved + rows if refunds else waiting + leading


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_again_and_again(process, ask, seed):
    """P1, P2, P5, P7: whatever the moment, nothing is lost and nothing is done twice."""
    process.start()
    data, moments, done = process.data, random.Random(seed), threading.Event()
    customers = [Customer(process.url, f"{seed}:{number}", done) for number in range(3)]
    for customer in customers:
        customer.start()
    for _ in range(KILLS):
        done.wait(moments.uniform(0, 4))
        process.end(signal.SIGKILL)
        process.start()
    deadline = time.monotonic() + PATIENCE
    sold = "select count(*) from shop_order where status = 'CONFIRMED'"
    while ask(data, "orders", sold)[0][0] < 5 and time.monotonic() < deadline:
        done.wait(0.5)
    done.set()
    for customer in customers:
        customer.join(120)
    deadline = time.monotonic() + PATIENCE
    while (left := unsettled(ask, data)) and time.monotonic() < deadline:
        threading.Event().wait(0.5)
    assert left == 0, process.log
    assert process.end() == 0, process.log
    ids = OrderIds(read_id_key(data, {}))
    check_books(ask, data, {ids.reveal(order) for customer in customers for order in customer.orders.values()})


def test_killed_while_it_is_set_up(process, ask):
    """P7: killed in the middle of its first start, at one moment after the other, it is whole in the end."""
    moments = random.Random(7)
    for _ in range(4):
        process.launch()
        threading.Event().wait(moments.uniform(0.3, 3))
        process.end(signal.SIGKILL)
    process.start()
    assert process.end() == 0, process.log
    assert ask(process.data, "catalog", "select count(*) from product") == [(60,)]
    assert ask(process.data, "inventory", "select count(*) from stock") == [(60,)]
    assert "Traceback" not in process.log


def check_books(ask, data, accepted):
    """Everything that was accepted has ended, the shelf adds up, and the money is where it belongs."""
    orders = {row[0]: row[1:] for row in ask(data, "orders", "select id, status, total_minor from shop_order")}
    assert accepted
    assert accepted <= set(orders)
    assert {status for status, _ in orders.values()} <= {"CONFIRMED", "CANCELED"}
    assert any(status == "CONFIRMED" for status, _ in orders.values())
    ledger = {}
    for order, sku, movement, quantity in ask(
        data, "inventory", "select order_id, sku, movement, quantity from ledger"
    ):
        ledger.setdefault(order, []).append((movement, sku, quantity))
    for order, (status, _) in orders.items():
        movements = sorted(ledger.get(order, []))
        skus = [(sku, quantity) for movement, sku, quantity in movements if movement == "reserve"]
        ends = [(sku, quantity) for movement, sku, quantity in movements if movement != "reserve"]
        assert ends == skus, order
        kinds = {movement for movement, _, _ in movements}
        assert kinds == {"reserve", "sell"} if status == "CONFIRMED" else kinds in (set(), {"reserve", "release"})
    charged = ask(
        data, "bank", "select sum(amount_minor) from charge where captured_at is not null and refund_key is null"
    )
    confirmed = sum(total for status, total in orders.values() if status == "CONFIRMED")
    assert charged[0][0] == confirmed
    stocked = ask(data, "inventory", "select sku, available + reserved + sold, reserved from stock")
    assert {sku: stock for sku, stock, _ in stocked} == {product.sku: product.stock for product in products(42)}
    assert all(reserved == 0 for _, _, reserved in stocked)
    told = ask(data, "gateway", "select order_id, type, count(*) from timeline group by 1, 2 having count(*) > 1")
    assert [row for row in told if row[1] not in ("webhook.repeated", "handler.stumbled", "checkout.step")] == []
    sessions = dict(ask(data, "checkout", "select order_id, status from checkout_session"))
    ends = {"COMPLETED": "CONFIRMED", "FAILED": "CANCELED"}
    assert {order: ends[status] for order, status in sessions.items()} == {
        order: orders[order][0] for order in sessions
    }
