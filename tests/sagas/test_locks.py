"""Locks that sagas hold until their end: one at a time, in the order of asking, whoever dies."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, Shop, another, opened, release, reserve, saga_of
from txpatterns import Event
from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_code import SagaCode
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.admin.saga_relations import relations_of
from txpatterns.errors import SagaFailed, WaitTimedOut
from txpatterns.sagas import SagaContext
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.schema import saga_lock_table, saga_table, saga_wait_table
from txpatterns.testing.clock import ManualClock

HOUR = timedelta(hours=1)


class Go(Event, topic="go", type="go", key="who"):
    who: str


async def sell(saga: SagaContext, who: str, fails: bool) -> str:
    await saga.lock("till", timeout=HOUR)
    await saga.step(reserve, who, compensate=release)
    await saga.wait_for(Go, key=who, timeout=None)
    if fails:
        saga.abort("no")
    return who


async def go(shop: Shop, who: str) -> None:
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Go(who=who))


async def standing(shop: Shop) -> dict[str, str]:
    query = sa.select(saga_table.c.id, saga_table.c.status)
    rows = await shop.app.database.read(lambda connection: connection.execute(query).all())
    return {row.id: row.status for row in rows}


async def become(shop: Shop, **expected: str) -> None:
    """Run until each saga stands there."""
    async with shop.app.running(), asyncio.timeout(PATIENCE.total_seconds()):
        while await standing(shop) != expected:
            await shop.app.drained()


async def queue(shop: Shop, name: str = "till") -> list[tuple[str, bool]]:
    """Give who has a lock, or waits for it, in order."""
    lock = saga_lock_table.c
    query = sa.select(saga_table.c.id, lock.held_at.is_not(None)).where(saga_table.c.number == lock.saga)
    query = query.where(lock.name == name).order_by(lock.id)
    rows = await shop.app.database.read(lambda connection: connection.execute(query).all())
    return [(row[0], bool(row[1])) for row in rows]


async def waits(shop: Shop) -> int:
    query = sa.select(sa.func.count()).select_from(saga_wait_table)
    return await shop.app.database.read(lambda connection: connection.execute(query).scalar_one())


async def words(shop: Shop, id: str) -> list[str]:
    row = await shop.row(id)
    found = await shop.app.database.read(lambda connection: relations_of(connection, row["number"]))
    return [*found.waits.values(), *found.holds]


@pytest.mark.parametrize("fails", [False, True], ids=["completes", "is undone"])
async def test_who_asks_first_has_it_until_its_end(shop: Shop, fails: bool) -> None:
    """P4, H333: then the next one has it: also where all is undone, and not before that is done."""
    saga_of(shop, sell, signals=[Go])
    for who, fails_ in (("ann", fails), ("ben", False), ("cleo", False)):
        await shop.start(sell, who, fails_, id=who)
        await shop.rest()
    assert await queue(shop) == [("ann", True), ("ben", False), ("cleo", False)]
    assert await shop.effects() == ["reserve ann"]
    assert (await words(shop, "cleo"))[0].startswith("shop.order ann has it since")
    assert (await words(shop, "cleo"))[0].endswith(", 1 wait before this one")
    assert (await words(shop, "ann"))[0].endswith("; 2 wait for it")
    await go(shop, "ann")
    await become(shop, ann="compensated" if fails else "completed", ben="waiting", cleo="waiting")
    await shop.rest()
    assert await queue(shop) == [("ben", True), ("cleo", False)]
    assert await shop.effects() == ["reserve ann", *(["release ann"] if fails else []), "reserve ben"]
    await go(shop, "ben")
    await go(shop, "cleo")
    await become(shop, ann="compensated" if fails else "completed", ben="completed", cleo="completed")
    assert (await queue(shop), await waits(shop)) == ([], 0)


async def test_it_stays_with_its_saga_and_another_process_goes_on(shop: Shop) -> None:
    """P4, H334: who dies with it has it still, and so has whoever goes on with the saga."""
    saga_of(shop, sell, signals=[Go])
    await shop.start(sell, "ann", False, id="ann")
    await shop.rest()
    other = another(shop)
    saga_of(other, sell, signals=[Go])
    await other.start(sell, "ben", False, id="ben")
    await go(other, "ben")
    await other.rest()
    assert await queue(other) == [("ann", True), ("ben", False)]
    await go(other, "ann")
    await become(other, ann="completed", ben="completed")
    assert await shop.effects() == ["reserve ann", "reserve ben"]


async def test_what_is_not_free_in_time_is_told(tmp_path) -> None:
    """P4, H334: the code goes another way; whoever waits behind it moves up. Two that wait for each other end so."""
    clock = ManualClock()

    async def crosswise(saga: SagaContext, first: str, second: str, minutes: int) -> str:
        await saga.lock(first, timeout=HOUR)
        await saga.wait_for(Go, key="both", timeout=None)
        try:
            await saga.lock(second, timeout=timedelta(minutes=minutes))
        except WaitTimedOut as error:
            return error.message
        return "both"

    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        saga_of(shop, crosswise, signals=[Go])
        one = await shop.start(crosswise, "a", "b", 5, id="one")
        two = await shop.start(crosswise, "b", "a", 30, id="two")
        await shop.rest()
        await go(shop, "both")
        await shop.rest()
        assert await standing(shop) == {"one": "waiting", "two": "waiting"}
        clock.advance(timedelta(minutes=6))
        await shop.rest()
        assert await one.result() == "The lock b was not free within 0:05:00."
        await shop.rest()
        assert await two.result() == "both"
        assert (await queue(shop, "a"), await queue(shop, "b"), await waits(shop)) == ([], [], 0)


async def test_who_has_it_may_ask_again(sqlite_shop: Shop) -> None:
    """P4, H333: by another branch, too; two locks at once are two."""

    async def order(saga: SagaContext) -> str:
        await saga.gather(*(saga.lock(name, timeout=HOUR) for name in ("a", "b", "a")))
        await saga.lock("b", timeout=HOUR)
        return "ok"

    saga_of(sqlite_shop, order)
    assert await sqlite_shop.run(order) == "ok"
    assert (await queue(sqlite_shop, "a"), await queue(sqlite_shop, "b"), await waits(sqlite_shop)) == ([], [], 0)


async def test_who_is_cancelled_while_it_waits_leaves_the_queue(sqlite_shop: Shop) -> None:
    """P4, H334, H322: before anything of it is undone; the next one has the lock at its turn."""
    shop = sqlite_shop
    saga_of(shop, sell, signals=[Go])
    for who in ("ann", "ben", "cleo"):
        await shop.start(sell, who, False, id=who)
        await shop.rest()
    await SagaInHand(shop.app.database, "ben", None, Deed("ann@desk", "no more")).cancel()
    await become(shop, ann="waiting", ben="compensated", cleo="waiting")
    assert await queue(shop) == [("ann", True), ("cleo", False)]
    code = SagaCode(shop.app.sagas.definitions, shop.app.outbox)
    await SagaInHand(shop.app.database, "cleo", None, Deed("ann@desk", "no more")).skip(code, "1")
    await become(shop, ann="waiting", ben="compensated", cleo="compensated")
    assert await queue(shop) == [("ann", True)]
    with pytest.raises(SagaFailed, match="WaitTimedOut"):
        await shop.app.sagas.handle(sell, "cleo").result(timeout=PATIENCE)


async def test_what_an_ended_saga_has_left_locked_is_found(sqlite_shop: Shop) -> None:
    """P4, H333: where its code has been changed and does not know of the lock any more."""
    shop = sqlite_shop
    saga_of(shop, sell, signals=[Go])
    for who in ("ann", "ben"):
        await shop.start(sell, who, False, id=who)
        await shop.rest()
    ended = sa.update(saga_table).where(saga_table.c.id == "ann").values(ended_at=shop.app.database.now(), due_at=None)
    await shop.app.database.transact(lambda connection: connection.execute(ended))
    store = LockStore(shop.app.database)
    assert await shop.app.database.transact(store.sweep) == 1
    assert await shop.app.database.transact(store.sweep) == 0
    await shop.rest()
    assert await queue(shop) == [("ben", True)]
    assert await shop.effects() == ["reserve ann", "reserve ben"]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
async def test_a_name_that_is_none_is_refused(sqlite_shop: Shop, name: str) -> None:
    """P6: where it is asked for."""

    async def order(saga: SagaContext) -> None:
        await saga.lock(name, timeout=HOUR)

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    assert "no name for a lock" in (await sqlite_shop.row())["attention"]
