"""Sagas drawn as Mermaid flowcharts: the text's syntax by its structure, and that it shows what would happen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from sagas.test_steplist import (
    CAME,
    CHARGE,
    CHARGED,
    HOUR,
    PACK,
    PACKED,
    PAID,
    RESERVE,
    SHIP,
    Cart,
    Paid,
    charge,
    checkout,
    look_up,
    reserve,
)
from txpatterns.errors import SagaDefinitionError
from txpatterns.sagas import PIVOT, Doubt, Saga, SagaCall, SagaContext, SagaSleep, SagaStep, SagaWait
from txpatterns.sagas.definitions import Definitions, Options
from txpatterns.sagas.diagram import diagram_of, only_list
from txpatterns.sagas.flowchart import Flowchart, Shape

BOX = re.compile(
    r'    (?P<name>n\d+)(?:\(\["(?P<end>[^"]*)"\]\)|\[\["(?P<call>[^"]*)"\]\]|\["(?P<step>[^"]*)"\]'
    r'|\{\{"(?P<wait>[^"]*)"\}\}|\[/"(?P<mark>[^"]*)"/\]|\{"(?P<choice>[^"]*)"\})'
)
ARROW = re.compile(r'    (?P<begin>n\d+) (?P<line>-->|-\.->)(?:\|"(?P<text>[^"]*)"\|)? (?P<end>n\d+)')


@dataclass
class Drawn:
    """A Mermaid flowchart as it is read: each box by its text, with its kind, and the arrows between texts."""

    kinds: dict[str, str]
    solid: list[tuple[str, str]]
    dotted: list[tuple[str, str, str]]


def read(text: str) -> Drawn:
    """Read what a flowchart says; fails where a line is none of its syntax, or an arrow leads nowhere."""
    head, *lines = text.split("\n")
    assert head == "flowchart TD"
    names: dict[str, str] = {}
    drawn = Drawn({}, [], [])
    for line in lines:
        if box := BOX.fullmatch(line):
            kind, told = next((kind, told) for kind, told in box.groupdict().items() if kind != "name" and told)
            assert not re.search(r'["<>`]|&(?!\w)|#(?!\w+;)', told), told
            assert box["name"] not in names
            names[box["name"]] = told
            drawn.kinds[told] = kind
            continue
        arrow = ARROW.fullmatch(line)
        assert arrow is not None, line
        begin, end = names[arrow["begin"]], names[arrow["end"]]
        if arrow["line"] == "-->":
            drawn.solid.append((begin, end))
        else:
            drawn.dotted.append((begin, arrow["text"], end))
    assert {*names.values()} == {box for arrow in drawn.solid for box in arrow} | {
        box for begin, _, end in drawn.dotted for box in (begin, end)
    }
    return drawn


def draw(saga: Any) -> Drawn:
    return read(diagram_of(Definitions("shop").add(saga, None, Options())))


def test_a_list_is_drawn_as_it_runs() -> None:
    """P4, H340: the steps in their order, each undoing beside what it undoes and in reverse, the pivot, the ends."""
    drawn = draw(checkout())
    assert drawn.solid == [
        ("shop.checkout, version 1: Cart", "step reserve"),
        ("undo reserve: release", "compensated"),
        ("step reserve", "step pack"),
        ("undo pack: unpack", "undo reserve: release"),
        ("step pack", "call charge"),
        ("undo charge: refund", "undo pack: unpack"),
        ("call charge", "wait paid"),
        ("wait paid", "pivot: from here on only forward"),
        ("pivot: from here on only forward", "step ship"),
        ("step ship", "completed"),
    ]
    assert drawn.dotted == [
        ("step reserve", "fails", "compensated"),
        ("step pack", "fails", "undo reserve: release"),
        ("call charge", "is refused", "undo pack: unpack"),
        ("call charge", "stays in doubt", "undo charge: refund"),
        ("wait paid", "nothing came in 1:00:00", "undo charge: refund"),
        ("step ship", "fails", "a person is asked"),
    ]
    assert {told: drawn.kinds[told] for told in ("call charge", "undo charge: refund", "wait paid", "step ship")} == {
        "call charge": "call",
        "undo charge: refund": "call",
        "wait paid": "wait",
        "step ship": "step",
    }


def test_what_runs_at_the_same_time_is_drawn_so() -> None:
    """P4, H390: one arrow to each, one from each to what follows; a failure undoes what was done beside it."""
    bare = SagaStep("bare", reserve)
    drawn = draw(Saga("checkout", Cart, [bare, [PACKED, CHARGED, CAME], PIVOT, [bare_of("one"), bare_of("two")]]))
    both, pivot = "undo what was done, the last first", "pivot: from here on only forward"
    assert set(drawn.solid) == {
        ("shop.checkout, version 1: Cart", "step bare"),
        ("step bare", "at the same time"),
        *(("at the same time", each) for each in ("step pack", "call charge", "wait paid", "step one", "step two")),
        *((each, pivot) for each in ("step pack", "call charge", "wait paid")),
        *((both, each) for each in ("undo pack: unpack_any", "undo charge: refund_any")),
        *((each, "compensated") for each in ("undo pack: unpack_any", "undo charge: refund_any")),
        (pivot, "at the same time"),
        ("step one", "completed"),
        ("step two", "completed"),
    }
    assert set(drawn.dotted) == {
        ("step bare", "fails", "compensated"),
        ("step pack", "fails", both),
        ("call charge", "is refused", both),
        ("call charge", "stays in doubt", both),
        ("wait paid", "nothing came in 1:00:00", both),
        ("step one", "fails", "a person is asked"),
        ("step two", "fails", "a person is asked"),
    }
    alone = draw(Saga("checkout", Cart, [RESERVE, [PACKED, bare]]))
    assert alone.dotted[1:] == [
        ("step pack", "fails", "undo reserve: release"),
        ("step bare", "fails", "undo pack: unpack_any"),
    ]


def bare_of(name: str) -> SagaStep[Cart]:
    return SagaStep(name, reserve)


def test_what_cannot_happen_is_not_drawn() -> None:
    """P4, H340: no end that nothing leads to; a call that nobody knows about leads to a person where it says so."""
    asked = SagaCall("charge", charge, doubt=Doubt.ASK, probe=look_up)
    bare = SagaStep("pack", reserve)
    assert draw(Saga("asked", Cart, [RESERVE, PACK, asked])).dotted[2:] == [
        ("call charge", "is refused", "undo pack: unpack"),
        ("call charge", "stays in doubt", "a person is asked"),
    ]
    assert draw(Saga("bare", Cart, [bare])).dotted == [("step pack", "fails", "compensated")]
    slept = draw(Saga("slept", Cart, [bare, SagaSleep("cooled", HOUR)]))
    assert (slept.kinds["sleep cooled: 1:00:00"], len(slept.dotted)) == ("wait", 1)
    for_ever = Saga("waits", Cart, [SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=None)])
    assert draw(for_ever).dotted == []
    behind = Saga("behind", Cart, [PIVOT, bare, SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=HOUR)])
    assert [end for *_, end in draw(behind).dotted] == ["a person is asked"] * 2


def test_a_flowchart_says_whatever_names_say() -> None:
    """H340: quotes, brackets and the like of names are text and no syntax."""
    chart = Flowchart()
    one, other = chart.box(Shape.STEP, '"a" <b> & `#c\\'), chart.box(Shape.END, "end")
    chart.arrow(one, other, 'why "not"', dotted=True)
    assert read(str(chart)).dotted == [
        ("#quot;a#quot; #lt;b#gt; #amp; #96;#35;c#92;", "why #quot;not#quot;", "end"),
    ]


def test_only_lists_are_drawn() -> None:
    """H340: of code nobody knows what it asks for without running it, so it is refused and not guessed at."""

    async def code(saga: SagaContext, cart: Cart) -> None: ...

    definitions = Definitions("shop")
    drawn = definitions.add(code, None, Options())
    with pytest.raises(SagaDefinitionError, match=r"is code, written at .*test_diagram\.py"):
        diagram_of(drawn)
    with pytest.raises(SagaDefinitionError, match="There are 0 sagas"):
        only_list(definitions)
    first = definitions.add(Saga("one", Cart, [RESERVE]), None, Options())
    assert only_list(definitions) is first
    second = definitions.add(Saga("one", Cart, [RESERVE, PACK, CHARGE, PAID, SHIP]), None, Options(3, 2))
    assert only_list(definitions) is second
    definitions.add(Saga("other", Cart, [RESERVE]), None, Options())
    with pytest.raises(SagaDefinitionError, match="There are 2 sagas") as refused:
        only_list(definitions)
    assert "shop.one, shop.other" in refused.value.remedy
    assert definitions.latest("one") is definitions.latest("shop.one") is second
    assert definitions.latest("two") is None
