"""The checkout that a saga leads, killed at a point of it, and started again on the same folder."""

import signal
import threading
import time

import httpx
import pytest

KILL = """
import os, signal, sys
from shop.checkout import saga
from shop.cli import main

step, when = sys.argv.pop(1).split("-")
owner = saga.CheckoutSaga if hasattr(saga.CheckoutSaga, step) else saga
work = getattr(owner, step)

async def deadly(*args):
    if when == "after":
        await work(*args)
    os.kill(os.getpid(), signal.SIGKILL)

deadly.__name__, deadly.__annotations__, deadly.__wrapped__ = step, work.__annotations__, work
setattr(owner, step, deadly)
main()
"""
PATIENCE = 120.0
WAY, BACK = "succeed", "fail"
SKU = "PLAY-01"


def point(step, when, method, gate=False):
    return pytest.param(f"{step}-{when}", method, marks=[] if gate else [pytest.mark.soak], id=f"{when} {step}")


POINTS = [
    point("open_session", "after", WAY),
    point("reserve", "before", WAY),
    point("reserve", "after", WAY),
    point("charge", "before", WAY),
    point("charge", "after", WAY, gate=True),
    point("complete_session", "before", WAY),
    point("complete_session", "after", WAY),
    point("note_reason", "after", BACK),
    point("refund", "after", BACK),
    point("release", "before", BACK),
    point("release", "after", BACK),
    point("fail_session", "after", BACK),
]


@pytest.mark.parametrize(("where", "method"), POINTS)
def test_killed_at_a_point_of_the_saga(process, ask, where, method):
    """P1, P2, P5, P7: `after` is behind the effect, before the saga knows of it; it is done once all the same."""
    process.program = ["-c", KILL, where]
    process.env |= {"SHOP_PAYMENT_WINDOW": "200"}  # a restart may take its time
    process.start()
    with httpx.Client(base_url=process.url, timeout=30) as alice:
        alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1}).raise_for_status()
        ordered = alice.post("/api/v1/checkout", json={"method": method, "mode": "orchestrated"})
        ordered.raise_for_status()
        order_id = ordered.json()["id"]
        assert process.running.wait(PATIENCE) == -signal.SIGKILL
        process.running.stdout.close()
        process.program = ["-m", "shop"]
        process.start()
        last = "stock.sold" if method == WAY else "order.canceled"
        told = until(alice, order_id, last)
    process.end()
    expected = ("CONFIRMED", "COMPLETED") if method == WAY else ("CANCELED", "FAILED")
    assert ask(process.data, "orders", "select status from shop_order") == [(expected[0],)], process.log
    assert ask(process.data, "checkout", "select status from checkout_session") == [(expected[1],)]
    assert ask(process.data, "checkout", "select count(*) from txp_saga") == [(1,)]
    moved = ["reserve", "sell"] if method == WAY else ["reserve", "release"]
    assert [row[0] for row in ask(process.data, "inventory", "select movement from ledger order by id")] == moved
    assert ask(process.data, "bank", "select count(*) from charge") == [(1,)]
    paid = "select count(*) from charge where captured_at is not null and refund_key is null"
    assert ask(process.data, "bank", paid) == [(int(method == WAY),)]
    assert sorted(told) == sorted(set(told))


def until(client, order_id, last):
    """Wait until the order's story has this; gives all it has, but what the bank repeats."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        told = [entry["type"] for entry in client.get(f"/api/v1/orders/{order_id}/timeline").json()["entries"]]
        if last in told:
            return [each for each in told if each != "webhook.repeated"]
        threading.Event().wait(0.1)
    raise AssertionError(told)
