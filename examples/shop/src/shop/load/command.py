"""One load from its beginning to its report."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from shop.load.driver import MOST_OPEN, Load, Plan
from shop.load.figures import INVARIANTS, Demand
from shop.load.invariants import Finding, check, levels, settle
from shop.load.visitors import Failed, Visitor

Say = Callable[[str], None]
SKUS = 20
"""How many products the visitors choose from."""
LIMITED = (
    "The store takes all that comes from one address for one customer, and refuses what is too often. "
    "For a load start it with SHOP_LIMIT_READ=0 SHOP_LIMIT_CHANGE=0"
)
HEADER = f"{'s':>4} {'sent':>7} {'open':>5} {'errors':>7} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"


class TargetRefused(Exception):
    """The target cannot be loaded, and why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a load: the report as JSON values, and the assertions that do not hold."""

    report: dict[str, Any]
    failed: tuple[str, ...]


def checked_target(url: str, is_mine: bool) -> str:
    """Give the target's address without a slash at its end.

    Raises:
        TargetRefused: it is none; or it is not this machine, and nobody said that it may be loaded all the same.
    """
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.path.strip("/"):
        raise TargetRefused(f"{url!r} is no address of a store; for example http://127.0.0.1:8080")
    if not is_mine and not _is_loopback(host):
        raise TargetRefused(f"{host} is not this machine. Load hurts; say --i-own-this-target if it is yours to hurt.")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    """Say whether it is this machine by itself: a name that somebody else resolves is not believed."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def load(plan: Plan, demands: Sequence[Demand], patience: float, say: Say) -> Result:
    """Send the load, look at what it left behind, and tell.

    Args:
        plan: What load.
        demands: What is asserted.
        patience: Seconds that the orders have to end, afterwards.
        say: Hears the lines of the live table, and of the summary.

    Raises:
        TargetRefused: there is no store that sells something.
    """
    limits = httpx.Limits(max_connections=MOST_OPEN, max_keepalive_connections=200)
    async with httpx.AsyncHTTPTransport(limits=limits) as transport:
        visitor, work = Visitor(plan.target, transport), Load(plan, transport)
        before = await _before(visitor)
        started = datetime.now(UTC)
        say(HEADER)
        with _stopped_by_signals(work.stopping):
            await work.run(list(before), lambda second: say(_line(f"{second:.0f}", work)))
            say(_line("end", work))
            if work.all_figures.errors["too-many-requests"]:
                say(LIMITED)
            findings = await _findings(work, before, visitor, patience, demands, say)
    broken = [finding.name for finding in findings if not finding.holds]
    figures = work.all_figures
    failed = tuple(each.text for each in demands if not each.holds(figures, broken))
    for each in demands:
        say(f"{'FAILED' if each.text in failed else 'holds ':<6} {each.text}")
    return Result(_report(plan, work, started, findings, demands, failed), failed)


async def _before(visitor: Visitor) -> Any:
    try:
        page = await visitor.ask("GET", f"/api/v1/products?limit={SKUS}")
        skus = [product["sku"] for product in page["items"]]
        if not skus:
            raise TargetRefused("This store has nothing to sell.")
        return await levels(visitor, skus)
    except (Failed, KeyError, TypeError) as error:
        raise TargetRefused(f"No store answers there: {error}. Start one: shop up --headless") from error


async def _findings(
    work: Load, before: Any, visitor: Visitor, patience: float, demands: Sequence[Demand], say: Say
) -> list[Finding]:
    if not any(each.what == INVARIANTS for each in demands):
        return []
    say(f"waiting for {len(work.bought)} orders to end")
    await settle(work.bought, patience)
    try:
        findings = await check(work.bought, before, visitor)
    except Failed as error:
        findings = [Finding("the store answers", (str(error),))]
    for each in findings:
        say(f"{'holds ' if each.holds else 'BROKEN'} {each.name}{''.join(f'; {why}' for why in each.broken[:3])}")
    return findings


def _line(second: str, work: Load) -> str:
    figures = work.all_figures
    table = figures.table()
    times = " ".join(f"{table[name]:>8.1f}" for name in ("p50", "p95", "p99"))
    return f"{second:>4} {figures.sent:>7} {work.under_way:>5} {figures.errors.total():>7} {times}"


def _report(
    plan: Plan,
    work: Load,
    started: datetime,
    findings: Sequence[Finding],
    demands: Sequence[Demand],
    failed: Sequence[str],
) -> dict[str, Any]:
    return {
        "plan": asdict(plan),
        "started_at": started.isoformat(),
        "stopped_early": work.stopping.is_set(),
        "all": work.all_figures.report(),
        "kinds": {kind: figures.report() for kind, figures in sorted(work.figures.items())},
        "orders": len(work.bought),
        "invariants": [asdict(each) | {"holds": each.holds} for each in findings],
        "asserts": [{"text": each.text, "holds": each.text not in failed} for each in demands],
    }


class _stopped_by_signals:  # noqa: N801 - used as a statement
    """Lets the first SIGINT or SIGTERM end the sending, and the next one the program."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        self._stopping.set()
        self.__exit__()

    def __exit__(self, *exception: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)
