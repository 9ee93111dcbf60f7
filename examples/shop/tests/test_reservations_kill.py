"""A checkout that holds stock, coupon and credit, killed in each of its states and started again on the same folder."""

import signal
import threading
import time

import httpx
import pytest

KILL = """
import functools, os, signal, sys
from shop.checkout import saga
from shop.cli import main
from txpatterns.integrations.tcc_http import TccRemote

where, when = sys.argv.pop(1).rsplit("-", 1)

def deadly(work, dies):
    @functools.wraps(work)
    async def working(*args):
        if when == "before" and dies(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        result = await work(*args)
        if dies(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return working

if "/" in where:
    TccRemote._asked = deadly(TccRemote._asked, lambda self, participant, what, *args: what == where)
else:
    owner = saga if hasattr(saga, where) else saga.CheckoutSaga
    setattr(owner, where, deadly(getattr(owner, where), lambda *args: True))
main()
"""
PATIENCE = 120.0
WAY, BACK = "succeed", "fail"
SKU = "PLAY-01"


def point(where, when, method, gate=False):
    return pytest.param(f"{where}-{when}", method, marks=[] if gate else [pytest.mark.soak], id=f"{when} {where}")


POINTS = [
    point("stock/try", "before", WAY),
    point("stock/try", "after", WAY),
    point("coupon/try", "after", WAY, gate=True),
    point("credit/try", "after", BACK),
    point("_set_aside", "after", WAY),
    point("_set_aside", "after", BACK),
    point("complete_session", "before", WAY),
    point("complete_session", "after", WAY),
    point("stock/confirm", "after", WAY),
    point("coupon/confirm", "before", WAY),
    point("credit/confirm", "after", WAY, gate=True),
    point("note_reason", "after", BACK),
    point("credit/cancel", "before", BACK),
    point("coupon/cancel", "after", BACK, gate=True),
    point("stock/cancel", "after", BACK),
]
"""After a try, before the decision, after it, while it is confirmed, while it is canceled."""


@pytest.mark.parametrize(("where", "method"), POINTS)
def test_killed_while_three_hold(process, ask, where, method):
    """P1, P5, P7, H394: what was tried is used once or given back, and all three say the same; nothing is lost."""
    process.program = ["-c", KILL, where]
    process.env |= {"SHOP_PAYMENT_WINDOW": "200"}  # a restart may take its time
    process.start()
    with httpx.Client(base_url=process.url, timeout=30) as alice:
        alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 3}).raise_for_status()
        ordered = alice.post("/api/v1/checkout", json={"method": method, "coupon": "WELCOME10", "use_credit": True})
        ordered.raise_for_status()
        order, cut = ordered.json(), ordered.json()["reduction"]
        assert process.running.wait(PATIENCE) == -signal.SIGKILL
        process.running.stdout.close()
        process.program = ["-m", "shop"]
        process.start()
        ends = {"stock.sold", "coupon.used", "credit.spent"} if method == WAY else {"order.canceled"}
        told = until(alice, order["id"], ends)
        left = alice.get("/api/v1/wallet").json()
    process.end()
    assert sorted(told) == sorted(set(told))
    paid = "select amount_minor from charge where captured_at is not null and refund_key is null"
    due = round(float(cut["to_pay"]["amount"]) * 100)
    assert ask(process.data, "bank", paid) == ([(due,)] if method == WAY else [])
    state, sold = ("used", "sell") if method == WAY else ("released", "release")
    assert ask(process.data, "pricing", "select state from coupon_hold") == [(state,)]
    assert [row[0] for row in ask(process.data, "inventory", "select movement from ledger order by id")] == [
        "reserve",
        sold,
    ]
    spent = float(cut["credit"]["amount"]) if method == WAY else 0.0
    assert (float(left["available"]["amount"]), float(left["held"]["amount"])) == (20.0 - spent, 0.0)
    moved = ["welcome", "hold", "spend" if method == WAY else "release"]
    assert [row[0] for row in ask(process.data, "wallet", "select what from entry order by id")][::2] == moved
    assert ask(process.data, "wallet", "select sum(minor) from entry") == [(0,)]


def until(client, order_id, ends):
    """Wait until the order's story has these; gives all it has, but what the bank repeats."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        told = [entry["type"] for entry in client.get(f"/api/v1/orders/{order_id}/timeline").json()["entries"]]
        if ends <= set(told):
            return [each for each in told if each != "webhook.repeated"]
        threading.Event().wait(0.1)
    raise AssertionError(told)
