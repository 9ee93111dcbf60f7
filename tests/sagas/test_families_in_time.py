"""Children and locks of sagas that are late, or begin anew."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, opened, release, reserve, saga_of
from txpatterns import Event
from txpatterns.errors import SagaFailed, WaitTimedOut
from txpatterns.sagas import SagaContext
from txpatterns.sagas.schema import saga_lock_table
from txpatterns.testing.clock import ManualClock

HOUR = timedelta(hours=1)


class Go(Event, topic="go", type="go", key="who"):
    who: str


async def part(saga: SagaContext, guest: str) -> str:
    told = await saga.step(reserve, guest, compensate=release)
    await saga.wait_for(Go, key=guest, timeout=None)
    return told


async def test_who_is_late_cancels_its_children_and_leaves_the_queue(tmp_path: Path) -> None:
    """P4, H332, H334: as who is cancelled by an operator."""
    clock = ManualClock()

    async def trip(saga: SagaContext) -> None:
        await saga.step(reserve, "seat", compensate=release)
        await saga.gather(saga.child(part, "ann", id="part"), saga.lock("till", timeout=timedelta(days=9)))

    async def keeper(saga: SagaContext) -> None:
        await saga.lock("till", timeout=HOUR)
        await saga.wait_for(Go, key="keeper", timeout=None)

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        shop.app.saga(signals=[Go])(part)
        shop.app.saga(signals=[Go])(keeper)
        saga_of(shop, trip, deadline=HOUR)
        await shop.start(keeper, id="keeper")
        await shop.rest()
        handle = await shop.start(trip)
        await shop.rest()
        assert (await shop.row("part"))["status"] == "waiting"
        clock.advance(2 * HOUR)
        await shop.rest()
        await shop.rest()
        with pytest.raises(SagaFailed, match="deadline"):
            await handle.result(timeout=PATIENCE)
        assert (await shop.row("part"))["status"] == "compensated"
        assert await shop.effects() == ["reserve seat", "reserve ann", "release ann", "release seat"]
        query = sa.select(sa.func.count()).select_from(saga_lock_table)
        assert await shop.app.database.read(lambda connection: connection.execute(query).scalar_one()) == 1


async def test_who_begins_anew_keeps_its_locks(tmp_path: Path) -> None:
    """P4, H333, H372: each run has a child of its own; the lock is free at the end."""

    async def trip(saga: SagaContext, left: int) -> str:
        if left == 1:
            await saga.lock("till", timeout=HOUR)
        told = await saga.child(part, "ann", id=f"part-{saga.run}")
        if left:
            saga.restart(left - 1)
        return told

    async def other(saga: SagaContext) -> str:
        try:
            await saga.lock("till", timeout=HOUR)
        except WaitTimedOut:
            return "late"
        return "had it"

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db") as shop:
        shop.app.saga(signals=[Go])(part)
        shop.app.saga()(other)
        saga_of(shop, trip)
        handle = await shop.start(trip, 1)
        await shop.rest()
        second = await shop.start(other, id="order-2")
        await shop.rest()
        assert await second.status() == "waiting"
        async with shop.app.transaction() as session:
            shop.app.sagas.signal(session, Go(who="ann"))
        async with shop.app.running():
            assert await handle.result(timeout=PATIENCE) == "hold ann"
            assert await second.result(timeout=PATIENCE) == "had it"
        assert (await shop.row())["run"] == 2
        assert await shop.effects() == ["reserve ann"] * 2
