"""Load on a shop: what is measured, what is asserted, and whom it refuses to load."""

import asyncio
import json
import subprocess
import sys

import httpx
import pytest
from httpx import ASGITransport

from shop.catalog.seed import products
from shop.load.command import TargetRefused, checked_target
from shop.load.driver import Load, Plan
from shop.load.figures import Figures, demand, percentile
from shop.load.invariants import check, levels, settle
from shop.load.profiles import Profile
from shop.load.visitors import Visitor

SHOP = "http://shop.test"
PLENTY = [product.sku for product in products(42) if product.stock == 40][:3]


@pytest.fixture
async def shop(open_shop, tmp_path):
    """A shop whose orders wait long enough for any machine."""
    async with open_shop(tmp_path, SHOP_PAYMENT_WINDOW="200") as made:
        yield made


async def test_a_target_that_stands_still_is_seen_by_all_who_would_have_come():
    """H395: no coordinated omission: one answer that takes long counts for everybody whose moment passed meanwhile."""
    free, begun = asyncio.Event(), []

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            if request.url.path != "/":
                return httpx.Response(200)
            begun.append(request.url.path)
            if len(begun) == 10:
                free.set()  # all have come, though nobody has been answered
            await free.wait()
            return httpx.Response(200)

    load = Load(Plan(SHOP, Profile.SMOKE, 1000, 0.01, 1), Slow())
    await load.run(["A"], lambda second: None)
    assert len(begun) == 10
    figures = load.figures["browse"]
    assert (figures.sent, figures.errors.total()) == (10, 0)


def test_times_count_from_the_moment_that_was_meant():
    """H395: a journey that began late because its driver was held up has waited since it was to begin."""
    figures = Figures()
    for number in range(100):
        figures.add(due=number, began=max(number, 50), ended=max(number, 50) + 1, error=None)
    assert figures.report()["ms_from_actual_start"]["p99"] == 1000
    assert figures.report()["ms_from_intended_start"]["max"] == 51_000
    figures.add(1, 1, 1, "unavailable")
    assert (figures.sent, figures.table()["p50"]) == (101, figures.table()["p50"])
    assert not demand("errors<0.1%").holds(figures, [])
    assert demand("errors<1%").holds(figures, [])


@pytest.mark.parametrize(("share", "found"), [(50, 5), (90, 9), (99, 10), (99.9, 10), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(share, found):
    assert percentile(range(1, 11), share) == found


def test_what_is_asserted():
    figures = Figures()
    assert not demand("p99<10s").holds(figures, []), "nothing was measured"
    figures.add(0, 0, 0.3, None)
    assert not demand("p99<300ms").holds(figures, [])
    assert demand("p99<=300ms").holds(figures, [])
    assert demand("mean < 0.4s").holds(figures, [])
    assert demand("invariants").holds(figures, [])
    assert not demand("invariants").holds(figures, ["stock is conserved"])
    for text in ("p99<3", "p<3ms", "p101<1s", "errors<3ms", "p99<1%", "invariants<1", "p1.2.3<1s", ""):
        with pytest.raises(ValueError, match="is no assertion"):
            demand(text)


def test_only_this_machine_is_loaded_unless_told():
    """H396: a slip of the keyboard loads nobody else's store."""
    for mine in ("http://127.0.0.1:8080", "http://localhost:1/", "http://[::1]:8080"):
        assert checked_target(mine, is_mine=False) == mine.rstrip("/")
    for other in ("http://shop.example.org", "http://10.0.0.1", "http://127.0.0.1.nip.io", "http://localhost.evil"):
        with pytest.raises(TargetRefused, match="--i-own-this-target"):
            checked_target(other, is_mine=False)
        assert checked_target(other, is_mine=True) == other
    for none in ("127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://a:b@127.0.0.1", "http://127.0.0.1/orders"):
        with pytest.raises(TargetRefused, match="no address"):
            checked_target(none, is_mine=True)


def run(command):
    return subprocess.run(command, check=False, capture_output=True, text=True)


async def loaded(shop, profile, rate=20, seconds=0.3):
    """A load on a shop in this process; gives it with what the shelves held before."""
    load = Load(Plan(SHOP, profile, rate, seconds, 3), ASGITransport(shop.web, raise_app_exceptions=False))
    visitor = Visitor(SHOP, load.transport)
    before = await levels(visitor, PLENTY)
    await load.run(list(before), lambda second: None)
    await settle(load.bought, 60)
    return load, before, visitor


async def test_the_invariants_hold_after_a_load(shop):
    """P4, P5, H397: every order of a load has ended, and stock, money, coupons and credit add up."""
    load, before, visitor = await loaded(shop, Profile.TCC)
    assert load.all_figures.errors == {}
    assert len(load.bought) == 6
    assert {each.status for each in load.bought} == {"CONFIRMED"}
    assert [each.broken for each in await check(load.bought, before, visitor)] == [()] * 5


async def test_an_invariant_that_is_broken_is_told(shop):
    """H397: who checks only that answers came would not see it."""
    load, before, visitor = await loaded(shop, Profile.TCC, rate=10, seconds=0.1)
    [one] = load.bought
    assert one.status == "CONFIRMED"
    await shop.change("inventory", f"update stock set sold = sold + 1 where sku = '{one.sku}'")
    await shop.change("wallet", "update wallet set held = 5")
    one.events += [event for event in one.events if event["type"] in ("coupon.used", "payment.captured")]
    one.status = "PENDING"
    broken = {each.name for each in await check(load.bought, before, visitor) if not each.holds}
    assert broken == {
        "every order ends",
        "stock is conserved",
        "money is conserved",
        "a coupon is used once",
        "credit is conserved",
    }


async def test_a_store_that_limits_its_visitors_is_told_of(open_shop, tmp_path):
    """H386, H397: who is refused by a limit is an error of that kind, and the rest adds up."""
    async with open_shop(tmp_path, SHOP_LIMIT_CHANGE="1", SHOP_PAYMENT_WINDOW="200") as shop:
        load, before, visitor = await loaded(shop, Profile.CHECKOUT)
        assert load.all_figures.errors == {"too-many-requests": 5}
        assert len(load.bought) == 1
        assert [each.broken for each in await check(load.bought, before, visitor)] == [()] * 5


def test_the_command_reports_and_its_exit_code_tells(process, tmp_path):
    """H397: the exit code is that of the assertions; the report has all figures."""
    process.start()
    report = tmp_path / "load.json"
    command = [sys.executable, "-m", "shop", "load", process.url, "--rate", "4", "--seconds", "1", "--report", report]
    asserts = ["--assert", "errors<0.1%", "--assert", "invariants"]
    good = run([*command, *asserts])
    assert good.returncode == 0, good.stdout + good.stderr
    told = json.loads(report.read_text())
    assert told["all"]["journeys"] == told["orders"] == 4
    assert [each["holds"] for each in told["asserts"]] == [True, True]
    assert {each["holds"] for each in told["invariants"]} == {True}
    bad = run([*command, "--assert", "p50<0.001ms"])
    assert (bad.returncode, "FAILED p50<0.001ms" in bad.stdout) == (1, True)
    wrong = run([*command, "--assert", "fast"])
    assert (wrong.returncode, "is no assertion" in wrong.stderr) == (2, True)
