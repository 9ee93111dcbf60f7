"""What several things raise together, in an ``ExceptionGroup``, as a ``TaskGroup`` of a step or a call does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from sagas.support import Declined, Shop, opened, release, reserve, saga_of
from txpatterns import Reject, Retry
from txpatterns.errors import NotBegun, SagaDefinitionError, SagaFailed, StepFailed
from txpatterns.sagas import Call, SagaContext, StepTransaction, Undo
from txpatterns.sagas.decisions import is_mistake, meant_by, undoes
from txpatterns.sagas.facts import Attempted
from txpatterns.testing.clock import ManualClock


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as shop:
        yield shop


async def fails(error: Exception) -> None:
    raise error


async def several(*errors: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        for error in errors:
            group.create_task(fails(error))


async def test_an_expected_error_of_a_step_is_told_as_it_is(shop: Shop) -> None:
    """P4, H338: whatever else failed with it, for all of the step is rolled back."""

    async def step(tx: StepTransaction) -> None:
        await reserve(tx, "lost")
        await several(ConnectionError("no route"), Declined(7))

    async def order(saga: SagaContext) -> str:
        try:
            await saga.step(step)
        except Declined as error:
            return f"declined {error.amount}"
        return "no"

    saga_of(shop, order)
    assert await shop.run(order) == "declined 7"
    assert await shop.effects() == []
    assert not [fact for fact in await shop.facts() if isinstance(fact, Attempted)]


async def test_a_call_that_fails_in_several_ways_is_in_doubt(tmp_path: Path) -> None:
    """P4, H338: one of its requests was refused, another one may have been made."""
    clock = ManualClock()
    undone: list[str | None] = []

    async def charge(call: Call) -> str:
        await several(Declined(7), Reject("no"))
        return "never"

    async def refund(undo: Undo[str]) -> None:
        undone.append(undo.result)

    async def order(saga: SagaContext) -> None:
        try:
            await saga.call(charge, compensate=refund)
        except StepFailed as error:
            saga.abort("no" if error.unknown else "refused")

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, order)
        handle = await shop.start(order)
        for _ in range(4):
            await shop.rest()
            clock.advance(timedelta(minutes=2))
        with pytest.raises(SagaFailed, match="Aborted: no"):
            await handle.result()
    assert undone == [None]


async def test_a_mistake_in_a_group_undoes_nothing(shop: Shop) -> None:
    """P4, H338, H171: neither in a step nor in the code."""

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=release)
        raise ExceptionGroup("two", [ValueError("bad"), ExceptionGroup("more", [AttributeError("wrong")])])

    saga_of(shop, order)
    await shop.start(order)
    await shop.rest()
    row = await shop.row()
    assert row["status"] == "running"
    assert "wrong" in row["attention"]
    assert await shop.effects() == ["reserve A1"]


def test_what_a_group_means() -> None:
    """P4, H338: what is expected, else what all of it is, else the group itself."""
    first, second = Declined(1), Declined(2)
    later, soon = NotBegun(after=timedelta(hours=1)), NotBegun()
    waits = Retry(after=timedelta(minutes=5))
    other = ValueError("bad")
    assert meant_by(ExceptionGroup("", [other, ExceptionGroup("", [first, second])]), (Declined,)) is first
    assert meant_by(ExceptionGroup("", [soon, later]), (Declined,)) is later
    assert meant_by(ExceptionGroup("", [other, waits]), (Declined,)) is waits
    mixed = ExceptionGroup("", [soon, other])
    assert meant_by(mixed, (Declined,)) is mixed
    assert meant_by(other, (Declined,)) is other
    assert is_mistake(ExceptionGroup("", [other, TypeError()]))
    assert not is_mistake(ExceptionGroup("", [other]))
    assert undoes(ExceptionGroup("", [first, TypeError()]), (Declined,))


async def test_a_group_is_no_error_to_expect(shop: Shop) -> None:
    """P4, H338: what is in it tells what has happened, not that it was several things."""
    with pytest.raises(SagaDefinitionError, match="errors= names ExceptionGroup"):
        saga_of(shop, several, errors=[ExceptionGroup])
