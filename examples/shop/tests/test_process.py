"""The shop as people run it: a process, a socket, a folder."""

import json
import signal
import subprocess
import threading
import time

import httpx

from shop.catalog.seed import products
from shop.cli import end_all

PATIENCE = 150.0
SKU = next(product.sku for product in products(42) if product.stock == 40)
ENDS = {
    "twice": {"stock.sold", "cart.settled", "webhook.repeated"},
    "reordered": {"stock.sold", "cart.settled", "webhook.repeated"},
    "late": {"order.canceled", "payment.refunded"},
    "lost": {"order.canceled", "payment.refunded"},
    "fail": {"order.canceled", "payment.failed"},
    "silent": {"order.canceled"},
}


def buy(client, method):
    client.delete("/api/v1/cart").raise_for_status()
    client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1}).raise_for_status()
    placed = client.post("/api/v1/checkout", json={"method": method})
    placed.raise_for_status()
    return placed.json()["id"]


def story(client, order_id, ends):
    heard, deadline = [], time.monotonic() + PATIENCE
    while not ends <= set(heard):
        assert time.monotonic() < deadline, heard
        threading.Event().wait(0.2)
        timeline = client.get(f"/api/v1/orders/{order_id}/timeline").raise_for_status().json()
        heard = [entry["type"] for entry in timeline["entries"]]
    return heard


def test_every_misfortune_of_a_webhook_over_http(process, ask):
    """P2, P4, P5: repeated, reordered, late, lost or never: over real sockets, all at once, the books agree."""
    process.env |= {"SHOP_PAYMENT_WINDOW": "16"}  # what pays at once does so within it on any machine
    process.start()
    with httpx.Client(base_url=process.url, timeout=60) as alice:
        before = alice.get(f"/api/v1/products/{SKU}").json()["stock"]
        orders = {method: buy(alice, method) for method in ENDS}
        heard = {method: story(alice, order_id, ENDS[method]) for method, order_id in orders.items()}
        after = alice.get(f"/api/v1/products/{SKU}").json()["stock"]
    for method, types in heard.items():
        assert len([t for t in types if t == "payment.captured"]) == ("payment.captured" in types), method
        assert types.count("payment.refunded") == (method in ("late", "lost")), method
        assert types.count("order.confirmed") == (method in ("twice", "reordered")), method
    assert after == before | {"available": before["available"] - 2, "sold": before["sold"] + 2}
    assert process.end(signal.SIGINT) == 0
    kept = "select count(*) from charge where captured_at is not null and refund_key is null"
    assert ask(process.data, "bank", kept) == [(2,)]
    assert "Traceback" not in process.log


def test_reset_forgets_everything_but_its_secrets(process, ask):
    process.env |= {"SHOP_PAYMENT_WINDOW": "600"}
    process.start()
    secrets = json.loads((process.data / "secrets.json").read_text())
    with httpx.Client(base_url=process.url, timeout=60) as alice:
        story(alice, buy(alice, "succeed"), {"stock.sold", "cart.settled"})
    assert process.end() == 0
    assert ask(process.data, "orders", "select count(*) from shop_order") == [(1,)]
    (process.data / "notes.txt").write_text("mine")
    process.start("--reset")
    assert process.end() == 0
    assert ask(process.data, "orders", "select count(*) from shop_order") == [(0,)]
    assert ask(process.data, "gateway", "select count(*) from timeline") == [(0,)]
    assert ask(process.data, "inventory", "select sum(sold), count(*) from stock") == [(0, 60)]
    assert json.loads((process.data / "secrets.json").read_text()) == secrets
    assert (process.data / "notes.txt").read_text() == "mine"


def test_one_shop_a_folder(process):
    """Two shops on the same files would take each other's messages: the second one is refused, with a way out."""
    process.start()
    first, port = process.running, process.port
    process.port = 0
    process.launch("--reset")
    assert process.running.wait(60) == 2
    process.running.stdout.close()
    assert "another shop is open" in process.log
    process.running, process.port = first, port
    assert httpx.get(f"{process.url}/health", timeout=60).status_code == 200
    assert process.end() == 0


def test_who_does_not_end_is_killed_and_nobody_is_left(capfd):
    """A service that hangs at its end, or a machine without time for it, leaves no process behind, nor a traceback."""
    deaf = ["/bin/sh", "-c", "trap '' TERM; echo deaf; read never"]
    processes = {
        name: subprocess.Popen(deaf, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for name in ("orders", "payment")
    }
    for process in processes.values():
        assert process.stdout.readline() == b"deaf\n"
    end_all(processes, 0.0)
    assert [process.returncode for process in processes.values()] == [-signal.SIGKILL] * 2
    for process in processes.values():
        process.communicate()
    told = capfd.readouterr().err
    assert all(f"{name} (process {process.pid}) did not end" in told for name, process in processes.items())
