"""A fleet whose processes run two versions: a deploy in the middle, a bad one that is mended, and a rollback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from rig.servers.postgres import Database
from sagas.support import Shop, another, effect, opened
from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.sagas import SagaContext, StepTransaction
from txpatterns.sagas.schema import saga_table

Code = Callable[[SagaContext], Awaitable[str]]
PAUSE = timedelta(milliseconds=30)


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


async def note(tx: StepTransaction, what: str) -> None:
    await tx.session.execute(sa.insert(effect).values(what=f"{what} {tx.saga_id}"))


async def take_back(tx: StepTransaction, what: str) -> None:
    await note(tx, f"not {what}")


async def first(saga: SagaContext) -> str:
    await saga.step(note, "reserve", compensate=take_back)
    await saga.sleep(PAUSE)
    await saga.step(note, "pack", compensate=take_back)
    await saga.sleep(PAUSE)
    return "first"


async def second(saga: SagaContext) -> str:
    if saga.version == 1:
        return await first(saga)
    await saga.step(note, "check", compensate=take_back)
    await saga.sleep(PAUSE)
    await saga.gather(saga.step(note, "reserve", compensate=take_back), saga.step(note, "pack", compensate=take_back))
    await saga.sleep(PAUSE)
    return "second"


async def bad(saga: SagaContext) -> str:
    await saga.step(note, "check" if saga.version == 2 else "reserve", compensate=take_back)
    return saga.nonsense  # type: ignore[attr-defined,no-any-return]


Deploy = Callable[[Shop], Code]
"""Registers what a process can run, and gives what it starts."""


def deploy(code: Code, *, version: int) -> Deploy:
    """Deploy one saga that serves all versions up to this one."""

    def register(process: Shop) -> Code:
        return process.app.saga("order", version=version)(code)

    return register


FIRST, SECOND, BAD = deploy(first, version=1), deploy(second, version=2), deploy(bad, version=2)


class Fleet:
    """Processes that come and go, with whatever code."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._started = 0

    async def run(self, *deploys: Deploy, starts: int) -> None:
        """Run a process for each, let each start some sagas, and go on until what is due now is done."""
        async with AsyncExitStack() as stack:
            processes = [another(self._shop) for _ in deploys]
            codes = [register(process) for register, process in zip(deploys, processes, strict=True)]
            for process in processes:
                await stack.enter_async_context(process.app.running(relay=False, consume=False))
            for process, code in zip(processes, codes, strict=True):
                for _ in range(starts):
                    self._started += 1
                    await process.start(code, id=f"order-{self._started}")
            await asyncio.gather(*(process.app.drained() for process in processes))

    async def until_all_have_ended(self, *deploys: Deploy, many: int) -> None:
        async with asyncio.timeout(60 if many < 100 else 600):
            while any(row["ended_at"] is None for row in await self.rows()):
                await self.run(*deploys, starts=0)

    async def rows(self) -> list[sa.RowMapping]:
        query = sa.select(saga_table).order_by(saga_table.c.number)
        return list(await self._shop.app.database.read(lambda connection: connection.execute(query).mappings().all()))


MANY = pytest.mark.parametrize("many", [4, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])


@MANY
async def test_versions_run_beside_each_other_through_every_deploy(shop: Shop, many: int) -> None:
    """P4, H171, H172, H339: nothing is undone by accident, each step is done once, and all come to their own end."""
    fleet = Fleet(shop)
    await fleet.run(FIRST, FIRST, starts=many)
    await fleet.run(FIRST, SECOND, starts=many)
    await fleet.run(FIRST, BAD, starts=many)
    flagged = [row for row in await fleet.rows() if row["attention"] is not None]
    assert len([row for row in flagged if row["version"] == 2]) >= many, "those that the bad one has begun stand still"
    await fleet.run(FIRST, FIRST, starts=many)
    left = {row["version"] for row in await fleet.rows() if row["ended_at"] is None and row["owner"] is None}
    assert 2 in left, "nobody has the code of those after the rollback"
    await fleet.run(SECOND, SECOND, starts=many)
    await fleet.until_all_have_ended(SECOND, SECOND, many=many)
    rows = await fleet.rows()
    assert {row["status"] for row in rows} == {"completed"}
    assert {(row["version"], row["result"]) for row in rows} == {(1, '"first"'), (2, '"second"')}
    assert {(row["attention"], row["diverged"]) for row in rows} == {(None, None)}
    done = Counter(await shop.effects())
    assert {what.split()[0] for what in done} == {"reserve", "pack", "check"}
    assert set(done.values()) == {1}
    assert len(done) == sum(2 if row["version"] == 1 else 3 for row in rows)


def of_families(process: Shop) -> Code:
    """Deploy a trip of one leg, which is a saga of its own."""

    async def leg(saga: SagaContext, where: str) -> str:
        await saga.step(note, f"leg to {where}", compensate=take_back)
        await saga.sleep(PAUSE)
        return where

    async def trip(saga: SagaContext) -> str:
        await saga.step(note, "reserve", compensate=take_back)
        told = await saga.child(leg, "rome", id=f"{saga.id}/leg", compensate=take_back)
        await saga.step(note, "pack", compensate=take_back)
        return told

    process.app.saga("leg")(leg)
    return process.app.saga("trip")(trip)


async def larger_leg(saga: SagaContext, where: str) -> str:
    await saga.step(note, f"leg to {where}", compensate=take_back)
    await saga.sleep(PAUSE)
    if saga.version > 1:
        await saga.step(note, f"seat to {where}", compensate=take_back)
    return where


async def bad_leg(saga: SagaContext, where: str) -> str:
    await saga.step(note, f"leg to {where}", compensate=take_back)
    await saga.sleep(PAUSE)
    return saga.nonsense  # type: ignore[attr-defined,no-any-return]


def of_larger_families(process: Shop, leg: Callable[[SagaContext, str], Awaitable[str]] = larger_leg) -> Code:
    """Deploy the next version: its legs do more, its trips have two, and a child that only this one knows."""

    async def hotel(saga: SagaContext) -> str:
        await saga.step(note, "hotel", compensate=take_back)
        await saga.sleep(PAUSE)
        return "hotel"

    async def trip(saga: SagaContext) -> str:
        await saga.step(note, "reserve", compensate=take_back)
        there = saga.child(leg, "rome", id=f"{saga.id}/leg", compensate=take_back)
        if saga.version == 1:
            told = await there
        else:
            back = saga.child(leg, "home", id=f"{saga.id}/back", compensate=take_back)
            told = ", ".join(await saga.gather(there, back, saga.child(hotel, id=f"{saga.id}/hotel")))
        await saga.step(note, "pack", compensate=take_back)
        return told

    process.app.saga("leg", version=2)(leg)
    process.app.saga("hotel")(hotel)
    return process.app.saga("trip", version=2)(trip)


@MANY
async def test_families_of_two_versions_run_through_every_deploy(shop: Shop, many: int) -> None:
    """P4, H398: parents wait for children that other processes run, in other versions, or that nobody can run now."""
    fleet, bad = Fleet(shop), partial(of_larger_families, leg=bad_leg)
    await fleet.run(of_families, of_families, starts=many)
    await fleet.run(of_families, of_larger_families, starts=many)
    await fleet.run(of_families, bad, starts=many)
    await fleet.run(bad, starts=0)
    flagged = {row["type"] for row in await fleet.rows() if row["attention"] is not None}
    assert flagged == {"shop.leg"}, "only what has the mistake stands still; its parents wait"
    await fleet.run(of_families, of_families, starts=many)
    await fleet.until_all_have_ended(of_larger_families, of_larger_families, many=many)
    rows = await fleet.rows()
    assert {row["status"] for row in rows} == {"completed"}
    assert {(row["attention"], row["diverged"]) for row in rows} == {(None, None)}
    trips = [row for row in rows if row["parent"] is None]
    assert {(row["version"], row["result"]) for row in trips} == {(1, '"rome"'), (2, '"rome, home, hotel"')}
    assert len(rows) == sum(2 if row["version"] == 1 else 4 for row in trips)
    done = Counter(await shop.effects())
    assert set(done.values()) == {1}
    assert not [what for what in done if what.startswith("not ")]
    seats = [row for row in rows if row["type"] == "shop.leg" and row["version"] == 2]
    assert len([what for what in done if what.startswith("seat")]) == len(seats)


async def test_a_child_is_undone_by_those_who_know_its_code(shop: Shop) -> None:
    """P4, H332, H398: a parent of the new version gives up; its child rests while nobody knows it."""

    async def hotel(saga: SagaContext) -> None:
        await saga.step(note, "hotel", compensate=take_back)
        await saga.sleep(timedelta(days=1))

    async def trip(saga: SagaContext) -> None:
        await saga.step(note, "reserve", compensate=take_back)
        await saga.child(hotel, id="hotel")

    async def older_trip(saga: SagaContext) -> None:
        await saga.step(note, "reserve", compensate=take_back)

    new, old = another(shop), another(shop)
    new.app.saga("hotel")(hotel)
    for process, code, version in ((new, trip, 2), (old, older_trip, 2)):
        process.app.saga("trip", version=version)(code)
    handle = await new.start(trip, id="trip")
    await new.rest()
    assert await handle.status() == "waiting"
    await SagaInHand(shop.app.database, "trip", None, Deed("ann@desk", "no more")).cancel()
    await old.rest()
    row = await shop.row("trip")
    assert (row["status"], await shop.effects()) == ("compensating", ["reserve trip", "hotel hotel"])
    await new.rest()
    await new.rest()
    assert ((await shop.row("trip"))["status"], (await shop.row("hotel"))["status"]) == ("compensated", "compensated")
    assert await shop.effects() == ["reserve trip", "hotel hotel", "not hotel hotel", "not reserve trip"]
