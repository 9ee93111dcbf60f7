"""What must hold once all is quiet, asked through the same door that the visitors came through."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shop.load.visitors import Bought, Failed, Visitor
from shop.money import Money

AT_ONCE = 16
ENDED = ("CONFIRMED", "CANCELED")
LOOK_AGAIN = 0.5
"""Seconds between two looks at an order that has not ended."""
FINAL = {"CONFIRMED": {"stock.sold"}, "CANCELED": {"order.canceled"}}
"""What a story has when nothing more is to come of its goods."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant, and where it does not hold."""

    name: str
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether it holds everywhere."""
        return not self.broken


Levels = Mapping[str, Mapping[str, int]]


async def levels(visitor: Visitor, skus: Iterable[str]) -> Levels:
    """Ask for the stock of some products."""
    found = {}
    for sku in skus:
        stock = (await visitor.ask("GET", f"/api/v1/products/{sku}"))["stock"]
        found[sku] = {part: int(stock[part]) for part in ("available", "reserved", "sold")}
    return found


async def settle(bought: Sequence[Bought], patience: float) -> None:
    """Follow the orders until each has ended and its goods are where they belong, or the patience (seconds) is over."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def follow(each: Bought) -> None:
        while not await _has_ended(each, gate):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(LOOK_AGAIN)

    try:
        async with asyncio.timeout(patience):
            await asyncio.gather(*(follow(each) for each in bought))
    except TimeoutError:
        return  # what has not ended by then is found by `check`


async def _has_ended(each: Bought, gate: asyncio.Semaphore) -> bool:
    async with gate:
        try:
            each.status = (await each.visitor.ask("GET", f"/api/v1/orders/{each.id}"))["status"]
            if each.status not in ENDED:
                return False
            each.events = (await each.visitor.ask("GET", f"/api/v1/orders/{each.id}/timeline"))["entries"]
        except Failed:
            return False
    types = {event["type"] for event in each.events}
    final = set(FINAL[each.status])
    if each.status == "CONFIRMED":
        final |= {"coupon.used"} if each.coupon else set()
        final |= {"credit.spent"} if each.credit and each.credit.minor else set()
    return final <= types and _owed(each) == 0


async def check(bought: Sequence[Bought], before: Levels, visitor: Visitor) -> list[Finding]:
    """Say what holds. It is assumed that nobody else buys meanwhile."""
    after = await levels(visitor, before)
    named: list[tuple[str, Callable[[], Awaitable[list[str]]]]] = [
        ("every order ends", lambda: _now(f"{each.id} is {each.status}" for each in bought if not _is_over(each))),
        ("stock is conserved", lambda: _now(_stock(bought, before, after))),
        ("money is conserved", lambda: _now(f"{each.id} is {_owed(each)} off" for each in bought if _owed(each))),
        ("a coupon is used once", lambda: _now(_coupons(bought))),
        ("credit is conserved", lambda: _credit(bought)),
    ]
    return [Finding(name, tuple(await broken())) for name, broken in named]


async def _now(broken: Iterable[str]) -> list[str]:
    return list(broken)


def _is_over(each: Bought) -> bool:
    return each.status in ENDED


def _stock(bought: Sequence[Bought], before: Levels, after: Levels) -> list[str]:
    sold = Counter[str]()
    for each in bought:
        sold[each.sku] += each.quantity if each.status == "CONFIRMED" else 0
    broken = []
    for sku, was in before.items():
        now = after[sku]
        wanted = {
            "available": was["available"] - sold[sku],
            "reserved": was["reserved"],
            "sold": was["sold"] + sold[sku],
        }
        if dict(now) != wanted:
            broken.append(f"{sku} has {dict(now)} and should have {wanted}")
    return broken


def _owed(each: Bought) -> int:
    """Give how much more was taken than was due, in minor units, as the order's story has it."""
    moved = 0
    for event in each.events:
        sign = {"payment.captured": 1, "payment.refunded": -1}.get(event["type"], 0)
        moved += sign * (_minor(event["payload"]["amount"]) if sign else 0)
    return moved - (each.to_pay.minor if each.status == "CONFIRMED" else 0)


def _coupons(bought: Sequence[Bought]) -> list[str]:
    broken = []
    for each in bought:
        used = sum(event["type"] == "coupon.used" for event in each.events)
        due = int(each.coupon is not None and each.status == "CONFIRMED")
        if used != due:
            broken.append(f"{each.id} is {each.status} and has used {used} coupons")
    return broken


async def _credit(bought: Sequence[Bought]) -> list[str]:
    """Each visitor of a load orders once: their credit is what it was, less what that order has spent."""
    broken = []
    for each in bought:
        if each.credit is None:
            continue
        spent = sum(_minor(e["payload"]["amount"]) for e in each.events if e["type"] == "credit.spent")
        due = each.credit.minor if each.status == "CONFIRMED" else 0
        held = _minor((await each.visitor.ask("GET", "/api/v1/wallet"))["held"])
        if (spent, held) != (due, 0):
            broken.append(f"{each.id} is {each.status}, has spent {spent} and holds {held}")
    return broken


def _minor(amount: Any) -> int:
    return Money.model_validate(amount).minor
