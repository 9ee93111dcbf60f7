"""What is kept in a journal comes back as it was, or is refused at once."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from txpatterns.errors import SagaDefinitionError, SagaValueRefused
from txpatterns.sagas.transactions import StepTransaction
from txpatterns.sagas.values import LARGEST, Form, digest_of, form_of_arguments, form_of_result


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


class Tip(Money):
    to: str


@dataclass
class Line:
    sku: str
    count: int


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**80),
        (float, 1.5),
        (bool, True),
        (str, "häß\x00"),
        (None, None),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (datetime, datetime(2026, 3, 1, 12, 30, 0, 17, tzinfo=timezone(timedelta(hours=2)))),
        (date, date(2026, 3, 1)),
        (timedelta, timedelta(days=3, microseconds=1)),
        (Colour, Colour.RED),
        (Money, Money(amount=Decimal("0.10"))),
        (Line, Line("A1", 2)),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (frozenset[str], frozenset("ab")),
        (dict[int, list[Money]], {1: [Money(amount=Decimal(1))]}),
        (Money | Line | None, Line("A1", 2)),
        (list[tuple[Decimal, ...]], [(Decimal(1), Decimal("2.50"))]),
    ],
    ids=lambda each: type(each).__name__,  # the same in each process, as a set's text is not
)
def test_a_value_is_the_same_after_the_journal(annotation: Any, value: object) -> None:
    """P4, H167: what the code is given before a restart is what it is given after it, in type and value."""
    form = Form(annotation, "it")
    text, back = form.write(value)
    again = form.read(text)
    assert type(back) is type(again) is type(value)
    assert back == again == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Money, Tip(amount=Decimal(1), to="me")),
        (list[Any], [Decimal("1.1")]),
        (Any, (1, 2)),
        (Any, {1: 2}),
        (float, math.nan),
        (bytes, b"\xff"),
        (int, "7"),
        (str, "\ud800"),
        (object, object()),
        (str, "x" * LARGEST),
    ],
    ids=[
        "subclass",
        "hidden Decimal",
        "hidden tuple",
        "keys",
        "NaN",
        "bytes",
        "other type",
        "surrogate",
        "object",
        "size",
    ],
)
def test_what_would_come_back_as_something_else_is_refused(annotation: Any, value: object) -> None:
    """P4, H167: at once, when it is written, and not after a restart months later."""
    with pytest.raises(SagaValueRefused):
        Form(annotation, "it").write(value)


def test_an_action_says_what_it_returns() -> None:
    """P4, H167: without an annotation nobody knows what to read back."""

    async def says(tx: StepTransaction) -> Money:
        return Money(amount=Decimal(1))

    async def says_nothing(tx: StepTransaction):  # type: ignore[no-untyped-def]
        return 1

    async def says_a_connection(tx: StepTransaction) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    class Called:
        async def __call__(self, tx: StepTransaction) -> Money:
            return Money(amount=Decimal(2))

    for action in (says, partial(says), Called()):
        assert form_of_result(action).read('{"amount": "1"}') == Money(amount=Decimal(1))
    with pytest.raises(SagaDefinitionError, match="says_nothing does not say what it returns"):
        form_of_result(says_nothing)
    with pytest.raises(SagaDefinitionError, match="cannot be kept in a journal"):
        form_of_result(says_a_connection)


def test_arguments_are_read_back_by_their_annotations() -> None:
    """P4, H167: those of a saga, too; a variable number or one without an annotation is refused."""

    async def saga(saga: object, money: Money, lines: list[Line]) -> None: ...

    async def many(saga: object, *lines: Line) -> None: ...

    async def unsaid(saga: object, line) -> None: ...  # type: ignore[no-untyped-def]

    form = form_of_arguments(saga)
    text, _ = form.write((Money(amount=Decimal(1)), [Line("A1", 2)]))
    assert form.read(text) == (Money(amount=Decimal(1)), [Line("A1", 2)])
    with pytest.raises(SagaDefinitionError, match="lines"):
        form_of_arguments(many)
    with pytest.raises(SagaDefinitionError, match="line of unsaid has no annotation"):
        form_of_arguments(unsaid)
    with pytest.raises(SagaValueRefused):
        form.write((Tip(amount=Decimal(1), to="me"), []))


_PROGRAM = "from txpatterns.sagas.values import digest_of as d; print(d(({'a', 'b', 'c'}, {'k': {1, 2}}), 'it'))"


def test_the_digest_of_arguments_is_the_same_in_every_process() -> None:
    """P4, H171: a set has another order in each process, and is no reason to take a saga for another."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM], env={"PYTHONHASHSEED": str(n)}, capture_output=True, text=True, check=True
        ).stdout
        for n in range(3)
    }
    assert len(digests) == 1
    assert digest_of((Line("A1", 2),), "it") != digest_of((Line("A1", 3),), "it")
    assert digest_of((), "it") == ""
    with pytest.raises(SagaValueRefused, match="cannot be told from another"):
        digest_of((object(),), "it")
