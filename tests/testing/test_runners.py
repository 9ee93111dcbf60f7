"""The fixture in a project of its own: with either plugin that runs coroutines, and by pytest's configuration alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ORDERS = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "testing" / "orders.py"
TESTS = """
from decimal import Decimal

import pytest
from orders import OrderPlaced, place_order, start_packing

{mark}

async def test_an_order_is_packed(txp):
    order_id = await place_order(Decimal("12.50"))
    await txp.drain()
    txp.assert_handled(start_packing, order_id=order_id)

async def test_a_retry(txp, monkeypatch):
    monkeypatch.setattr("orders.PackingSlip", None)
    await place_order(Decimal("1"))
    await txp.advance(minutes=15)
    assert txp.handled(start_packing) == []
"""
PYTEST_ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
ANYIO = 'anyio_backend = pytest.fixture(lambda: "asyncio")\npytestmark = pytest.mark.anyio'
WITH = {"pytest-asyncio": (PYTEST_ASYNCIO, "", ("-p", "no:anyio")), "anyio": ("", ANYIO, ("-p", "no:asyncio"))}
LEAK = """
kept = []

async def test_a_leak(txp):
    kept.append(txp.app.session())
    await kept[0].connection()

async def test_one_more(txp):
    await place_order(Decimal("2"))
    await txp.drain()
    await kept[0].close()
"""


def run(folder: Path, configuration: str, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{configuration}")
    (folder / "orders.py").write_text(ORDERS.read_text())
    (folder / "test_orders.py").write_text(tests)
    quiet = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", *options)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *quiet], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("plugin", WITH)
def test_with_either_plugin(plugin: str, tmp_path: Path):
    """P1, P2: the page names both."""
    configuration, mark, options = WITH[plugin]
    ran = run(tmp_path, f"txp_app = orders:app\n{configuration}", TESTS.format(mark=mark), *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
    assert not (tmp_path / "orders.db").exists()


def test_an_app_that_is_not_named_is_asked_for(tmp_path: Path):
    """P1: with both ways to name it."""
    ran = run(tmp_path, PYTEST_ASYNCIO, TESTS.format(mark=""))
    assert "Which App? Set txp_app" in ran.stdout


def test_a_connection_that_is_kept_fails_its_test_and_no_other(tmp_path: Path):
    """I14: the next test begins as if nothing had been."""
    leaking = TESTS.format(mark="") + LEAK
    ran = run(tmp_path, f"txp_app = orders:app\n{PYTEST_ASYNCIO}", leaking, "-W", "ignore")
    assert "4 passed, 1 error" in ran.stdout, ran.stdout
    assert "a connection was never given back" in ran.stdout


WAYS = (
    "assert txp.handled(start_packing)",
    "assert len(txp.handled(start_packing)) == 1",
    "assert order_id in [event.order_id for event in txp.handled(start_packing)]",
    "(event,) = txp.handled(start_packing)",
    "assert txp.handled(start_packing) == [OrderPlaced(order_id=order_id, total=Decimal(1))]",
)
FAILING = """
async def test_{number}(txp, monkeypatch):
    def fails(**_):
        raise ConnectionError("the printer is away")
    monkeypatch.setattr("orders.PackingSlip", fails)
    order_id = await place_order(Decimal(1))
    await txp.drain()
    {way}
"""


def test_a_failure_says_what_waits_however_it_was_asserted(tmp_path: Path):
    """P7: what waits and why is shown once, with the error."""
    head = TESTS.format(mark="").partition("async def")[0]
    tests = [FAILING.format(number=number, way=way) for number, way in enumerate(WAYS)]
    ran = run(tmp_path, f"txp_app = orders:app\n{PYTEST_ASYNCIO}", head + "".join(tests))
    assert f"{len(WAYS)} failed" in ran.stdout
    shown = "waits: orders.start_packing, retrying: order.placed"
    assert ran.stdout.partition("short test summary")[0].count(shown) == len(WAYS), ran.stdout
