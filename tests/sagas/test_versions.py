"""A fleet whose processes run two versions: a deploy in the middle, a bad one that is mended, and a rollback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rig.servers.postgres import Database
from sagas.support import Shop, another, effect, opened
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


class Fleet:
    """Processes that come and go, with whatever code."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._started = 0

    def deployed(self, code: Code) -> Shop:
        """Give a process with this code, of version 2 and for those of version 1, unless it is the first."""
        process = another(self._shop)
        versions = {"version": 1} if code is first else {"version": 2, "since": 1}
        process.app.saga("order", **versions)(code)
        return process

    async def run(self, *codes: Code, starts: int) -> None:
        """Run a process for each, let each start some sagas, and go on until what is due now is done."""
        async with AsyncExitStack() as stack:
            processes = [self.deployed(code) for code in codes]
            for process in processes:
                await stack.enter_async_context(process.app.running(relay=False, consume=False))
            for process, code in zip(processes, codes, strict=True):
                for _ in range(starts):
                    self._started += 1
                    await process.start(code, id=f"order-{self._started}")
            await asyncio.gather(*(process.app.drained() for process in processes))

    async def rows(self) -> list[sa.RowMapping]:
        query = sa.select(saga_table).order_by(saga_table.c.number)
        return list(await self._shop.app.database.read(lambda connection: connection.execute(query).mappings().all()))


@pytest.mark.parametrize("many", [4, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_versions_run_beside_each_other_through_every_deploy(shop: Shop, many: int) -> None:
    """P4, H171, H172, H339: nothing is undone by accident, each step is done once, and all come to their own end."""
    fleet = Fleet(shop)
    await fleet.run(first, first, starts=many)
    await fleet.run(first, second, starts=many)
    await fleet.run(first, bad, starts=many)
    flagged = [row for row in await fleet.rows() if row["attention"] is not None]
    assert len([row for row in flagged if row["version"] == 2]) >= many, "those that the bad one has begun stand still"
    await fleet.run(first, first, starts=many)
    left = {row["version"] for row in await fleet.rows() if row["ended_at"] is None and row["owner"] is None}
    assert 2 in left, "nobody has the code of those after the rollback"
    await fleet.run(second, second, starts=many)
    async with asyncio.timeout(60 if many < 100 else 600):
        while any(row["ended_at"] is None for row in await fleet.rows()):
            await fleet.run(second, second, starts=0)
    rows = await fleet.rows()
    assert {row["status"] for row in rows} == {"completed"}
    assert {(row["version"], row["result"]) for row in rows} == {(1, '"first"'), (2, '"second"')}
    assert {(row["attention"], row["diverged"]) for row in rows} == {(None, None)}
    done = Counter(await shop.effects())
    assert {what.split()[0] for what in done} == {"reserve", "pack", "check"}
    assert set(done.values()) == {1}
    assert len(done) == sum(2 if row["version"] == 1 else 3 for row in rows)
