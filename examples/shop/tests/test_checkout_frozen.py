"""A process that leads a checkout stands still: another one goes on with it, and the first comes too late."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shop.checkout import app as checkout
from shop.checkout.models import Base
from shop.checkout.others import CheckoutOthers
from shop.events import CheckoutRequested, OrderLine, PaymentCaptured
from shop.money import Money
from shop.ports import Charge, Reservation
from txpatterns import App, AppSettings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.sagas import SagaSettings

LEASE = timedelta(seconds=1)
PATIENCE = 60.0
WORKER = """
import asyncio, sys, test_checkout_frozen as test

async def main():
    stock = test.Stock(sys.stdin.readline)
    async with test.led(sys.argv[1], stock, test.Bank()):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Stock:
    """Says that it is asked, and answers when whoever asks may go on."""

    def __init__(self, wait=None):
        self.wait = wait
        self.asked = []

    async def reserve(self, order_id, lines, until):
        self.asked.append(order_id)
        if self.wait is not None:
            print("reserving", flush=True)
            await asyncio.to_thread(self.wait)
            print("reserved", flush=True)
        return Reservation(order_id=order_id, state="reserved", lines=lines)

    async def release(self, order_id):
        raise AssertionError("nothing is undone")


class Bank:
    """Takes each charge; that it has paid, the test says."""

    def __init__(self):
        self.charged = []
        self.asked = asyncio.Event()

    async def charge(self, key, order_id, amount, method, pay_by):
        self.charged.append(key)
        print("charged", flush=True)
        self.asked.set()
        return Charge(id=key, status="pending", amount=amount)

    async def find(self, key):
        raise AssertionError("nobody is in doubt")

    async def refund(self, key, order_id, amount, method):
        raise AssertionError("nothing is undone")


@asynccontextmanager
async def led(file, stock, bank):
    """A checkout service on a file, with others that a test holds in its hand."""
    settings = AppSettings(sagas=SagaSettings(lease_ttl=LEASE, timeout_grace=timedelta(0)))
    app = App("checkout", f"sqlite+aiosqlite:///{file}", MemoryBroker(), metadata=Base.metadata, settings=settings)
    lead = checkout.listen(app, CheckoutOthers(stock, bank))
    async with app.running():
        yield app, app.sagas.handle(lead, "o1")


def order():
    price = Money(amount="3.00")
    line = OrderLine(cart_line_id="l", sku="A", name="A", quantity=1, unit_price=price)
    return CheckoutRequested(
        order_id="o1",
        visitor_id="v",
        key="k",
        lines=(line,),
        total=price,
        pay_by=datetime.now(UTC) + timedelta(minutes=5),
        method="succeed",
    )


async def start(file):
    """Start the saga from outside: from an App that runs nothing."""
    app = App("checkout", f"sqlite+aiosqlite:///{file}", MemoryBroker(), metadata=Base.metadata)
    await app.prepare()
    lead = checkout.listen(app, CheckoutOthers(Stock(), Bank()))
    async with app.transaction() as session:
        app.sagas.start(session, lead, order(), id="o1")
    await app.close()


def freeze(process, file):
    """Stop a process while it writes nothing: one that stood still as SQLite's writer would keep all others out."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            with sqlite3.connect(file, timeout=0.2) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)


@pytest.fixture
def worker(tmp_path):
    """A process that runs the checkout service alone, and says what it is asked."""
    command = [sys.executable, "-c", WORKER, str(tmp_path / "checkout.db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parent, **pipes) as running:
        yield running
        running.kill()


@pytest.mark.timeout(120)
async def test_a_frozen_worker_s_checkout_goes_on_elsewhere(tmp_path, worker):
    """P7, H350: its lease runs out, another takes the saga; awake again, it neither charges nor completes once more."""
    file, stock, bank = tmp_path / "checkout.db", Stock(), Bank()
    assert await asyncio.to_thread(worker.stdout.readline) == "up\n"
    await start(file)
    assert await asyncio.to_thread(worker.stdout.readline) == "reserving\n"
    await asyncio.to_thread(freeze, worker, file)
    async with led(file, stock, bank) as (app, handle):
        await asyncio.wait_for(bank.asked.wait(), PATIENCE)
        worker.send_signal(signal.SIGCONT)
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        assert await asyncio.to_thread(worker.stdout.readline) == "reserved\n"
        async with app.transaction() as session:
            app.sagas.signal(session, PaymentCaptured(order_id="o1", payment_id="p", amount=order().total, source="x"))
        # Whoever of the two goes on with it now: both are awake.
        assert await handle.result(timeout=timedelta(seconds=PATIENCE)) == "o1"
    worker.kill()
    assert (stock.asked, len(bank.charged), worker.stdout.read()) == (["o1"], 1, "")
    with sqlite3.connect(file) as connection:
        assert connection.execute("select status from checkout_session").fetchall() == [("COMPLETED",)]
