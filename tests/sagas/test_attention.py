"""Telling a person of what keeps failing: once, for as long as it does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count

import pytest

from sagas.support import PATIENCE, Shop, reserve, saga_of
from txpatterns.errors import SagaFailed
from txpatterns.hooks import Hooks, on
from txpatterns.sagas import Call, SagaContext, SagaSettings, StepTransaction
from txpatterns.sagas.moments import SagaNeedsAttention


class Teller(Hooks):
    """Remembers what a person was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @on(SagaNeedsAttention)
    def needs(self, needs: SagaNeedsAttention) -> None:
        self.told.append(subject(needs.reason) or "")


def subject(reason: str | None) -> str | None:
    """Give what fails, without why."""
    return reason and reason.partition(":")[0]


@pytest.mark.parametrize("words", ["wrong", "wrong for the {}. time"])
async def test_a_person_is_told_once_of_what_keeps_failing(sqlite_shop: Shop, words: str) -> None:
    """P4, H370: whatever else goes on beside it, and whatever words it fails with; and the flag stays meanwhile."""
    tries, flags, enough = count(1), set[str | None](), asyncio.Event()

    async def fails(call: Call) -> None:
        number = next(tries)
        if number > 4:
            flags.add(subject((await shop.row())["attention"]))
        if number > 12:
            enough.set()
            await asyncio.Event().wait()
        raise TypeError(words.format(number))

    async def others(saga: SagaContext) -> None:
        for number in range(6):
            await saga.step(reserve, f"A{number}")

    async def order(saga: SagaContext) -> None:
        await saga.gather(saga.call(fails), others(saga))

    teller = Teller()
    shop = Shop(sqlite_shop.app.database, SagaSettings(stop_within=timedelta(0)), [teller])
    saga_of(shop, order)
    await shop.start(order)
    async with asyncio.timeout(PATIENCE.total_seconds()), shop.app.running():
        await enough.wait()
    assert teller.told == ["fails fails"]
    assert flags == {"fails fails"}


async def test_a_person_is_told_once_of_what_cannot_be_undone(sqlite_shop: Shop) -> None:
    """P4, H370: the same of an undoing."""
    tries = count(1)

    async def fails(tx: StepTransaction, sku: str) -> None:
        if (number := next(tries)) < 9:
            raise ConnectionError(f"for the {number}. time")

    async def order(saga: SagaContext) -> None:
        await saga.step(reserve, "A1", compensate=fails)
        saga.abort("no")

    teller = Teller()
    shop = Shop(sqlite_shop.app.database, None, [teller])
    saga_of(shop, order)
    with pytest.raises(SagaFailed):
        await shop.run(order)
    assert (await shop.row())["attention"] is None
    assert teller.told == ["reserve fails"]


async def test_a_person_is_told_again_behind_a_success(sqlite_shop: Shop) -> None:
    """P4, H370: what fails then is another thing, also by the same name; and the flag is gone between the two."""
    flags: list[str | None] = []

    async def stumbles(call: Call) -> None:
        if call.attempt <= 5:
            raise TypeError("wrong")

    async def looks(call: Call) -> None:
        flags.append((await shop.row())["attention"])

    async def order(saga: SagaContext) -> None:
        await saga.call(stumbles)
        await saga.call(looks)
        await saga.call(stumbles)
        await saga.sleep(timedelta(milliseconds=1))
        await saga.call(looks)

    teller = Teller()
    shop = Shop(sqlite_shop.app.database, None, [teller])
    saga_of(shop, order)
    await shop.run(order)
    assert teller.told == ["stumbles fails"] * 2
    assert flags == [None, None]
