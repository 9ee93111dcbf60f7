"""A process that leads a checkout stands still: another one goes on with it, and the first comes too late."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rig.process import Child
from rig.waiting import wait_until
from rig.watchdog import Watchdog
from shop.checkout import app as checkout
from shop.checkout.models import Base
from shop.checkout.others import CheckoutOthers
from shop.events import CheckoutRequested, OrderLine, PaymentCaptured
from shop.money import Money
from shop.ports import Charge, Reservation
from txpatterns import App, AppSettings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.sagas import SagaSettings

SHORT, LONG = timedelta(seconds=2), timedelta(minutes=5)
"""Leases: of the worker that is stopped, and of the one that must not lose its own however busy the machine is."""
PATIENCE = 120.0
WORKER = """
import asyncio, sys
import test_checkout_frozen as test
from pathlib import Path

async def main():
    file, sign = map(Path, sys.argv[1:])
    async with test.led(file, test.Stock(sign), test.Bank(), test.SHORT):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Stock:
    """Says that it is asked, and answers as soon as there is a sign, if it is to wait for one."""

    def __init__(self, sign=None):
        self.sign = sign
        self.asked = []

    async def reserve(self, order_id, lines, until):
        self.asked.append(order_id)
        if self.sign is not None:
            print("reserving", flush=True)
            try:
                while not self.sign.exists():  # noqa: ASYNC110 - a file tells nobody
                    await asyncio.sleep(0.02)
            finally:
                print("awake", flush=True)  # to answer, or as it has found its lease lost: whichever comes first
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
async def led(file, stock, bank, lease):
    """A checkout service on a file, with others that a test holds in its hand."""
    settings = AppSettings(sagas=SagaSettings(lease_ttl=lease, timeout_grace=timedelta(0)))
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

    def stands_still():
        process.stop()
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.cont()
                return False
        return True

    wait_until(stands_still, what="a moment in which it writes nothing")


@pytest.fixture
def worker(tmp_path):
    """A process that runs the checkout service alone, and says what it is asked."""
    watchdog = Watchdog()
    given = ["-c", WORKER, tmp_path / "checkout.db", tmp_path / "go on"]
    try:
        with Child(given, watchdog, folder=Path(__file__).parent) as running:
            yield running
    finally:
        watchdog.close()


async def test_a_frozen_worker_s_checkout_goes_on_elsewhere(tmp_path, worker):
    """P7, H350: its lease runs out, another takes the saga; awake again, it neither charges nor completes once more."""
    file, stock, bank = tmp_path / "checkout.db", Stock(), Bank()
    await asyncio.to_thread(worker.wait_for, "up")
    await start(file)
    await asyncio.to_thread(worker.wait_for, "reserving")
    await asyncio.to_thread(freeze, worker, file)
    async with led(file, stock, bank, LONG) as (app, handle):
        await asyncio.wait_for(bank.asked.wait(), PATIENCE)
        (tmp_path / "go on").touch()
        worker.cont()
        await asyncio.to_thread(worker.wait_for, "awake")
        async with app.transaction() as session:
            app.sagas.signal(session, PaymentCaptured(order_id="o1", payment_id="p", amount=order().total, source="x"))
        # Whoever of the two goes on with it now: both are awake.
        assert await handle.result(timeout=timedelta(seconds=PATIENCE)) == "o1"
    worker.kill9()
    assert (stock.asked, len(bank.charged)) == (["o1"], 1)
    assert [line for line in worker.lines if "charged" in line] == []
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("select status from checkout_session").fetchall() == [("COMPLETED",)]
