"""What every stock does alike: in memory, in a database, in a session of yours, in Redis."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import product

import pytest

from tcc.stock.support import A_WHILE
from txpatterns.errors import (
    OutOfStock,
    ReservationEnded,
    ReservationExpired,
    ReservationReused,
    StockInputInvalid,
    UnknownItem,
    UnknownReservation,
)
from txpatterns.tcc.stock import Decision, Level, Limits, State, Swept, sweep
from txpatterns.tcc.stock.limits import MOST

LIMITS = Limits()
MS = timedelta(milliseconds=1)


async def test_a_reservation_is_sold(stock, clock):
    """P5, I27: what is set aside moves on, and the sum stays."""
    until = clock.now() + A_WHILE
    assert await stock.load({"B": 3, "A": 10}) == ["A", "B"]
    made = await stock.reserve("r", [("B", 1), ("A", 4)], until)
    assert (made.state, dict(made.lines), made.prolonged) == (State.HELD, {"A": 4, "B": 1}, False)
    assert abs(made.expires_at - until) <= MS
    assert await stock.levels(["A", "B", "C"]) == {"A": Level(6, 4), "B": Level(2, 1)}
    assert await stock.confirm("r") is True
    assert await stock.levels(["A"]) == {"A": Level(6, 0, 4)}
    assert (await stock.reservation("r")).state is State.SOLD
    assert await stock.reservation("another") is None


async def test_lines_of_one_item_are_added_up_and_all_or_none_is_reserved(stock, clock):
    """P5, H362: two lines draw on one shelf; what is short is told, all of it."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 5, "B": 1, "C": 9})
    with pytest.raises(OutOfStock) as told:
        await stock.reserve("r", [("A", 3), ("B", 2), ("C", 1), ("A", 3)], until)
    assert told.value.short == {"A": 5, "B": 1}
    assert await stock.levels(["A", "B", "C"]) == {"A": Level(5), "B": Level(1), "C": Level(9)}
    assert dict((await stock.reserve("s", {"A": 5, "B": 1}, until)).lines) == {"A": 5, "B": 1}


async def test_a_repeat_is_answered_as_before(stock, clock):
    """P5, H125, H132: also when nothing is left, and a refusal also when more has come."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 1})
    first = await stock.reserve("r", {"A": 1}, until)
    assert await stock.reserve("r", [("A", 1)], until) == first
    for _ in range(2):
        with pytest.raises(OutOfStock) as told:
            await stock.reserve("s", {"A": 1}, until)
        assert told.value.short == {"A": 0}
        await stock.set_available("A", 5)
    assert await stock.levels(["A"]) == {"A": Level(5, 1)}
    assert (await stock.reservation("s")).state is State.REFUSED
    with pytest.raises(ReservationEnded) as ended:
        await stock.confirm("s")
    assert ended.value.state == "refused"
    with pytest.raises(ReservationReused):
        await stock.reserve("r", {"A": 2}, until)


async def test_every_order_of_calls_ends_right(stock, clock):
    """P5, H122, H123, H124, I26: reserve, confirm and cancel in any order, repeated, against a few lines."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 1000})
    sold = held = 0
    for number, calls in enumerate(product(("reserve", "confirm", "cancel"), repeat=3)):
        name, state = f"r{number}", None
        for call in calls:
            expected, state, error = _model(call, state)
            arguments = ({"A": 2}, until) if call == "reserve" else ()
            (answer,) = await asyncio.gather(getattr(stock, call)(name, *arguments), return_exceptions=True)
            seen = getattr(answer, "state", answer) if error is None else type(answer)
            assert seen == (expected if error is None else error), (calls, call)
        sold, held = sold + 2 * (state == "sold"), held + 2 * (state == "held")
    assert await stock.levels(["A"]) == {"A": Level(1000 - sold - held, held, sold)}


def _model(call, state):
    """Gives the answer, the state after it, and the error."""
    match call, state:
        case "reserve", None | "held":
            return "held", "held", None
        case "reserve", "sold":
            return "sold", "sold", None
        case "reserve", "released":
            return None, state, ReservationEnded
        case "confirm", None:
            return None, None, UnknownReservation
        case "confirm", "held":
            return True, "sold", None
        case "confirm", "sold":
            return False, "sold", None
        case "confirm", "released":
            return None, state, ReservationEnded
        case "cancel", "held":
            return True, "released", None
        case "cancel", None | "released":
            return False, "released", None
        case "cancel", "sold":
            return None, "sold", ReservationEnded
    raise AssertionError((call, state))


async def test_a_reservation_is_put_off_once(stock, clock):
    """P5: when the payment starts; and never to an earlier time."""
    until = (clock.now() + A_WHILE).replace(microsecond=0)
    await stock.load({"A": 5})
    await stock.reserve("r", {"A": 1}, until)
    assert await stock.prolong("r", until - A_WHILE / 2) is False
    assert await stock.prolong("r", until + A_WHILE) is True
    assert await stock.prolong("r", until + 2 * A_WHILE) is False
    found = await stock.reservation("r")
    assert (found.expires_at, found.prolonged) == (until + A_WHILE, True)
    assert (await stock.reserve("r", {"A": 1}, until)).state is State.HELD
    clock.advance(A_WHILE + MS)
    assert await stock.overdue() == []
    clock.advance(A_WHILE)
    assert await stock.overdue() == ["r"]
    await stock.confirm("r")
    with pytest.raises(ReservationEnded):
        await stock.prolong("r", clock.now() + A_WHILE)
    with pytest.raises(UnknownReservation):
        await stock.prolong("s", clock.now() + A_WHILE)
    await stock.reserve("t", {"A": 1}, clock.now() + A_WHILE)
    with pytest.raises(StockInputInvalid):
        await stock.prolong("t", clock.now() + LIMITS.longest + timedelta(minutes=1))


async def test_what_becomes_of_an_overdue_reservation_is_decided_by_who_knows(stock, clock):
    """P5, H126, H177: no reservation ends by itself; where nobody decides, or asking fails, it stays."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 10})
    for name in ("cancel", "confirm", "fails", "later", "open"):
        await stock.reserve(name, {"A": 1}, until if name != "later" else until + A_WHILE)
    await stock.reserve("sold", {"A": 1}, until)
    await stock.confirm("sold")

    async def decision(name):
        if name == "fails":
            raise OSError("nobody there")
        return Decision(name)

    assert await sweep(stock, decision) == Swept()
    clock.advance(A_WHILE + MS)
    assert await sweep(stock, decision) == Swept(confirmed=1, canceled=1, left=2)
    assert await stock.levels(["A"]) == {"A": Level(5, 3, 2)}
    clock.advance(timedelta(days=7))  # a confirmation that takes a week still finds it
    assert await stock.confirm("open") is True
    assert await stock.cancel("fails") is True


async def test_a_reservation_that_comes_too_late_is_refused(stock, clock):
    """P5, H126, I28: by the stock's own clock, to the millisecond; and one that lasts too long to be remembered."""
    now = clock.now().replace(microsecond=0)
    clock.advance(now + timedelta(seconds=1) - clock.now())
    now = clock.now()
    await stock.load({"A": 9})
    with pytest.raises(ReservationExpired):
        await stock.reserve("late", {"A": 1}, now - LIMITS.skew - MS)
    await stock.reserve("just in time", {"A": 1}, now - LIMITS.skew)
    with pytest.raises(StockInputInvalid):
        await stock.reserve("far", {"A": 1}, now + LIMITS.longest + MS)
    await stock.reserve("just near enough", {"A": 1}, now + LIMITS.longest)
    assert await stock.levels(["A"]) == {"A": Level(7, 2)}
    assert await stock.reservation("late") is None


async def test_a_cancellation_is_remembered_as_long_as_its_reservation_can_come(stock, clock):
    """P5, H126, H177: when it may be forgotten, the reservation that it shuts out is too late by itself."""
    await stock.load({"A": 9})
    until = clock.now() + LIMITS.longest
    await stock.cancel("r")
    for step in (timedelta(0), LIMITS.longest, LIMITS.skew + MS, LIMITS.keep):
        clock.advance(step)
        if hasattr(stock, "forget"):
            await stock.forget()
        await stock.cancel("another")  # Redis forgets some with each call
        with pytest.raises((ReservationEnded, ReservationExpired)):
            await stock.reserve("r", {"A": 1}, until)
    assert await stock.levels(["A"]) == {"A": Level(9)}


BAD_LINES = [
    [], {}, {"": 1}, {"A": 0}, {"A": -1}, {"A": 1.0}, {"A": True}, {"A": Decimal(1)}, {"A": "1"}, {"A": None},
    {"A": MOST + 1}, [("A", MOST), ("A", 1)], {"A\n": 1}, {"A\x00": 1}, {"A" * 201: 1}, {5: 1}, [("A",)], ["AB"],
    [("A", 1, 1)], {str(n): 1 for n in range(101)}, {"\ud800": 1},
]  # fmt: skip


async def test_what_cannot_be_right_is_refused_and_changes_nothing(stock, clock):
    """P5, H133: no fractions, no numbers that a computer cannot count, no names that do not show."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 5})
    for lines in BAD_LINES:
        with pytest.raises(StockInputInvalid):
            await stock.reserve("r", lines, until)
    for name in ("", 5, None, "r\n", "x" * 201):
        for call, *arguments in (
            ("reserve", {"A": 1}, until), ("confirm",), ("cancel",), ("prolong", until), ("reservation",),
        ):  # fmt: skip
            with pytest.raises(StockInputInvalid):
                await getattr(stock, call)(name, *arguments)
    for time in (None, datetime(2026, 1, 1), "2026", 5):  # noqa: DTZ001
        with pytest.raises(StockInputInvalid):
            await stock.reserve("r", {"A": 1}, time)
    for quantity in (-1, 1.5, MOST + 1, None):
        with pytest.raises(StockInputInvalid):
            await stock.set_available("A", quantity)
        with pytest.raises(StockInputInvalid):
            await stock.load({"Z": quantity})
    with pytest.raises(StockInputInvalid):
        await stock.levels("A")
    assert await stock.levels(["A", "Z"]) == {"A": Level(5)}
    assert await stock.reservation("r") is None


async def test_an_item_that_was_never_heard_of_is_not_one_without_stock(stock, clock):
    """P5, H129: neither none of it, nor as much as you like; and nothing else is taken with it."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 5})
    with pytest.raises(UnknownItem, match=r"never heard of B, C\."):
        await stock.reserve("r", {"A": 1, "B": 1, "C": 1}, until)
    assert await stock.levels(["A", "B"]) == {"A": Level(5)}
    await stock.load({"B": 2, "C": 2, "A": 100})
    assert (await stock.reserve("r", {"A": 1, "B": 1, "C": 1}, until)).state is State.HELD
    assert await stock.levels(["A", "B"]) == {"A": Level(4, 1), "B": Level(1, 1)}


async def test_numbers_up_to_the_largest_are_exact(stock, clock):
    """P5, H133: each of them, and a sum of many."""
    until = clock.now() + A_WHILE
    await stock.load({"A": MOST, "B": MOST})
    await stock.reserve("r", {"A": MOST, "B": MOST - 1}, until)
    assert await stock.levels(["A", "B"]) == {"A": Level(0, MOST), "B": Level(1, MOST - 1)}
    await stock.confirm("r")
    for n in range(3):
        await stock.set_available("A", MOST)
        await stock.reserve(f"r{n}", {"A": MOST}, until)
        await stock.confirm(f"r{n}")
    assert await stock.levels(["A"]) == {"A": Level(0, 0, 4 * MOST)}


async def test_items_and_ids_may_have_any_characters_that_show(stock, clock):
    """P5: spaces, quotes, colons, braces, other alphabets."""
    until = clock.now() + A_WHILE
    names = ["a:b", "v:a", "{x}", 'say "hi"', "back\\slash", "Grüße an München", "商品", "a b  c", "%s", "🛒"]
    await stock.load(dict.fromkeys(names, 2))
    for name in names:
        await stock.reserve(name, {name: 1, names[0]: 1} if name == names[1] else {name: 1}, until)
    assert (await stock.levels(names))["商品"] == Level(1, 1)
    assert dict((await stock.reservation("v:a")).lines) == {"a:b": 1, "v:a": 1}
    for name in names:
        assert await stock.confirm(name) is True
    assert (await stock.levels(names))["a:b"] == Level(0, 0, 2)


async def test_fifty_at_once_get_no_more_than_there_is(stock, clock):
    """P5: of one item, and one reservation that comes many times at once."""
    until = clock.now() + A_WHILE
    await stock.load({"A": 20, "B": 50})
    answers = await asyncio.gather(
        *(stock.reserve(f"r{n}", {"A": 1, "B": 1}, until) for n in range(50)), return_exceptions=True
    )
    assert [type(each) for each in answers if isinstance(each, Exception)] == [OutOfStock] * 30
    assert await stock.levels(["A", "B"]) == {"A": Level(0, 20), "B": Level(30, 20)}
    held = next(each.id for each in answers if not isinstance(each, Exception))
    assert sorted(await asyncio.gather(*(stock.cancel(held) for _ in range(20)))) == [False] * 19 + [True]
    same = await asyncio.gather(*(stock.reserve("same", {"A": 1}, until) for _ in range(20)))
    assert {each.state for each in same} == {State.HELD}
    assert await stock.levels(["A"]) == {"A": Level(0, 20)}


def test_limits_that_would_forget_too_early_are_refused():
    """P5, H126: before anything runs."""
    with pytest.raises(Exception, match="forgotten too early"):
        Limits(longest=timedelta(days=7), keep=timedelta(days=7))
    assert Limits(longest=timedelta(hours=1), skew=timedelta(0), keep=timedelta(hours=1)).keep == timedelta(hours=1)
