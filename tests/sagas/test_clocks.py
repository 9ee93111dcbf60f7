"""Workers whose clocks are wrong, or jump: all that a saga waits for goes by the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from rig.servers.postgres import Database
from sagas.support import PATIENCE, Shop, Told, opened, release, reserve
from txpatterns.clock import SystemClock
from txpatterns.coordination import Leases
from txpatterns.errors import SagaFailed, WaitTimedOut
from txpatterns.sagas import SagaContext, StepTransaction
from txpatterns.sagas.facts import Noted
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.schema import SCOPE
from txpatterns.sagas.store import SagaStore

HOUR = timedelta(hours=1)
HALF = HOUR / 2
SOON = timedelta(milliseconds=1)
JUMPS = (1, -1, 0, -24, 24)
"""Hours."""
pytestmark = pytest.mark.server


class WrongClock(SystemClock):
    """What a machine takes for the time. Like any clock it may be set; what it counts steadily goes on."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@asynccontextmanager
async def worker(database: Database, ahead: timedelta) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg"), clock=WrongClock(ahead)) as shop:
        yield shop


async def signal(shop: Shop) -> None:
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="order-1"))


async def patient(saga: SagaContext) -> None:
    """Wait in each of the ways that there are, for half an hour each, and be late in an hour."""
    began = saga.now()
    await saga.step(reserve, "A1", compensate=release)
    await saga.lock("till", timeout=HALF)
    await saga.wait_for(Told, key=saga.id, timeout=HALF)
    await saga.wait_for(Told, key=saga.id, timeout=began + HALF - saga.now())
    saga.now()
    await saga.sleep(HALF)


async def test_no_time_passes_by_a_workers_clock(database: Database) -> None:
    """P4, H391: workers an hour ahead and an hour behind take turns; nothing is woken, late, or undone."""
    async with worker(database, HOUR) as ahead, worker(database, -HOUR) as behind:
        for shop in (ahead, behind):
            shop.app.saga("order", signals=[Told], deadline=HOUR)(patient)
        since = await ahead.app.database.moment()
        handle = await behind.start(patient)
        for shop in (ahead, behind):
            await behind.rest()
            await ahead.rest()
            assert (await handle.status(), (await ahead.row())["attention"]) == ("waiting", None)
            await signal(shop)
        await ahead.rest()
        await behind.rest()
        until = await ahead.app.database.moment()
        row = await ahead.row()
        assert (row["status"], row["attention"], row["crashes"]) == ("waiting", None, 0)
        assert since + HALF <= row["due_at"] <= until + HALF
        assert since + HOUR <= row["deadline_at"] <= until + HOUR
        told = [datetime.fromisoformat(fact.value.strip('"')) for fact in await ahead.facts() if is_a_time(fact)]
        assert (len(told), told) == (3, sorted(told))
        assert since <= told[0]
        assert told[-1] <= until


def is_a_time(fact: object) -> bool:
    return isinstance(fact, Noted) and fact.mark.kind == Kind.NOW


async def hasty(saga: SagaContext) -> str:
    """Wait in each of those ways for next to nothing."""
    await saga.sleep(SOON)
    try:
        await saga.wait_for(Told, key=saga.id, timeout=SOON)
    except WaitTimedOut:
        return "nothing came"
    return "it came"


async def endless(saga: SagaContext) -> None:
    await saga.step(reserve, "A1", compensate=release)
    await saga.wait_for(Told, key=saga.id, timeout=None)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_what_is_due_by_the_databases_clock_is_due(database: Database, ahead: timedelta) -> None:
    """P4, H391: whatever a worker takes for the time; timers, time-outs and deadlines."""
    async with worker(database, ahead) as shop, worker(database, -ahead) as other:
        for each in (shop, other):
            each.app.saga("hasty", signals=[Told])(hasty)
            each.app.saga("endless", signals=[Told], deadline=SOON)(endless)
        first = await other.start(hasty, id="hasty")
        second = await other.start(endless, id="endless")
        async with shop.app.running():
            assert await first.result(timeout=PATIENCE) == "nothing came"
            with pytest.raises(SagaFailed, match="its deadline has passed"):
                await second.result(timeout=PATIENCE)


async def test_a_clock_that_is_set_costs_no_lease(database: Database) -> None:
    """P4, H391: to and fro by hours while a saga runs: others, whose clocks say otherwise, do not find it free."""
    async with worker(database, timedelta(0)) as shop, worker(database, HOUR) as other:
        clock, claims = shop.app.database.clock, SagaStore(other.app.database)
        assert isinstance(clock, WrongClock)
        rival = Leases(other.app.database, SCOPE, slots=0, ttl=timedelta(minutes=10))
        found: list[int] = []

        async def jump(tx: StepTransaction, hours: int) -> None:
            clock.ahead = hours * HOUR
            await reserve(tx, str(hours))
            known = other.app.sagas.definitions.known()
            claim = partial(claims.claim, owner=rival.owner, alive=rival.alive(), known=known, most=9)
            found.append(len(await other.app.database.transact(claim)))

        async def order(saga: SagaContext) -> None:
            for hours in JUMPS:
                await saga.step(jump, hours)
                await saga.sleep(SOON)

        for each in (shop, other):
            each.app.saga("order")(order)
        await rival.join()
        await shop.start(order)
        await shop.rest()
        row = await shop.row()
        assert (row["status"], row["crashes"], found) == ("completed", 0, [0] * len(JUMPS))
        assert await shop.effects() == [f"reserve {hours}" for hours in JUMPS]
