"""Sagas that start others and wait for them: results, failures, and what becomes of children that nobody waits for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from sagas.support import (
    PATIENCE,
    Declined,
    Shop,
    another,
    effect,
    opened,
    pack,
    refuse,
    release,
    reserve,
    saga_of,
)
from txpatterns import Event
from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_code import SagaCode
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.admin.sagas import find_saga
from txpatterns.cli.story import lines_of, open_of
from txpatterns.errors import SagaFailed, SagaKept, StepFailed, WaitTimedOut
from txpatterns.sagas import SagaContext, StepTransaction
from txpatterns.sagas.schema import saga_table, saga_wait_table
from txpatterns.sagas.store import SagaStore

DAY = timedelta(days=1)


class Go(Event, topic="go", type="go", key="who"):
    who: str


async def room(saga: SagaContext, guest: str) -> str:
    return await saga.step(reserve, guest, compensate=release)


async def slow_room(saga: SagaContext, guest: str) -> str:
    told = await saga.step(reserve, guest, compensate=release)
    await saga.wait_for(Go, key=guest, timeout=None)
    return told


async def settled_room(saga: SagaContext, guest: str) -> str:
    saga.pivot()
    told = await saga.step(reserve, guest)
    await saga.wait_for(Go, key=guest, timeout=None)
    return told


async def no_room(saga: SagaContext, guest: str) -> str:
    await saga.step(reserve, guest, compensate=release)
    return await saga.step(refuse, 7)


async def give_back(tx: StepTransaction, guest: str) -> None:
    await tx.session.execute(sa.insert(effect).values(what=f"give back {guest}"))


def rooms(shop: Shop) -> None:
    """Register the sagas that are started by others."""
    for function in (room, slow_room, settled_room, no_room):
        shop.app.saga(signals=[Go], errors=[Declined])(function)


async def go(shop: Shop, who: str) -> None:
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Go(who=who))


async def cancel(shop: Shop, id: str = "order-1") -> None:
    await SagaInHand(shop.app.database, id, None, Deed("ann@desk", "no more")).cancel()


async def statuses(shop: Shop) -> dict[str, str]:
    query = sa.select(saga_table.c.id, saga_table.c.status)
    rows = await shop.app.database.read(lambda connection: connection.execute(query).all())
    return {row.id: row.status for row in rows}


async def become(shop: Shop, **expected: str) -> None:
    """Run until each saga stands there; ids are written with underscores."""
    wanted = {id_.replace("_", "-"): status for id_, status in expected.items()}
    async with shop.app.running():
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while await statuses(shop) != wanted:
                await shop.app.drained()


async def waits(shop: Shop) -> int:
    query = sa.select(sa.func.count()).select_from(saga_wait_table)
    return await shop.app.database.read(lambda connection: connection.execute(query).scalar_one())


async def test_a_child_gives_its_result(shop: Shop) -> None:
    """P4, H331: it is a saga of its own, with the story and the trace of its parent."""

    async def trip(saga: SagaContext, guest: str) -> str:
        hold = await saga.step(reserve, "seat")
        return f"{hold}, {await saga.child(room, guest, id=f'room-{guest}')}"

    rooms(shop)
    saga_of(shop, trip)
    assert await shop.run(trip, "ann") == "hold seat, hold ann"
    parent, child = await shop.row(), await shop.row("room-ann")
    assert (child["parent"], child["parent_path"], child["type"]) == (parent["number"], "2", "shop.room")
    assert '"correlation-id":"order-1"' in child["headers"].replace(" ", "")
    assert await shop.effects() == ["reserve seat", "reserve ann"]
    assert await waits(shop) == 0


async def test_what_a_child_has_failed_of_is_told(shop: Shop) -> None:
    """P4, H331: what the parent expects as it is, all else as StepFailed; the child has undone what it did."""

    async def trip(saga: SagaContext) -> str:
        try:
            await saga.child(no_room, "ann", id="room-ann")
        except Declined as error:
            return f"declined {error.amount}"
        return ""

    async def other(saga: SagaContext) -> str:
        try:
            await saga.child(no_room, "ben", id="room-ben")
        except StepFailed as error:
            return f"{error.type} {error.unknown}"
        return ""

    rooms(shop)
    saga_of(shop, trip)
    shop.app.saga("other")(other)
    assert await shop.run(trip) == "declined 7"
    assert await shop.run(other, id="order-2") == "sagas.support:Declined False"
    assert await shop.effects() == ["reserve ann", "release ann", "reserve ben", "release ben"]


async def test_several_children_at_once(shop: Shop) -> None:
    """P4, H331: beside a step; the parent is a row while it waits, and another process goes on with it."""

    async def trip(saga: SagaContext) -> list[str]:
        told = await saga.gather(
            saga.child(slow_room, "ann", id="room-ann"),
            saga.child(slow_room, "ben", id="room-ben"),
            saga.step(reserve, "seat"),
        )
        return [str(each) for each in told]

    rooms(shop)
    saga_of(shop, trip)
    handle = await shop.start(trip)
    await become(shop, order_1="waiting", room_ann="waiting", room_ben="waiting")
    await go(shop, "ben")
    await become(shop, order_1="waiting", room_ann="waiting", room_ben="completed")
    other = another(shop)
    rooms(other)
    saga_of(other, trip)
    await go(other, "ann")
    await become(other, order_1="completed", room_ann="completed", room_ben="completed")
    assert await handle.result() == ["hold ann", "hold ben", "hold seat"]
    assert await waits(shop) == 0


async def test_a_child_that_is_dropped_is_cancelled(shop: Shop) -> None:
    """P4, H332: what it has done is undone, and its parent does not wait for that."""

    async def trip(saga: SagaContext) -> str:
        await saga.first(
            saga.child(slow_room, "ann", id="room-ann"), saga.wait_for(Go, key="trip", timeout=None), saga.sleep(DAY)
        )
        return await saga.step(reserve, "bus")

    rooms(shop)
    saga_of(shop, trip, signals=[Go])
    handle = await shop.start(trip)
    await become(shop, order_1="waiting", room_ann="waiting")
    await go(shop, "trip")
    await become(shop, order_1="completed", room_ann="compensated")
    assert await handle.result() == "hold bus"
    assert sorted(await shop.effects()) == ["release ann", "reserve ann", "reserve bus"]
    assert "its parent" in (await shop.row("room-ann"))["error"]
    assert await waits(shop) == 0


@pytest.mark.parametrize("undoes", [True, False], ids=["with a compensation", "without"])
async def test_what_a_child_has_completed_is_undone_by_its_compensation(shop: Shop, undoes: bool) -> None:
    """P4, H332: in its place among what the parent has done; without one it stays done."""

    async def trip(saga: SagaContext) -> None:
        await saga.step(reserve, "seat", compensate=release)
        await saga.child(room, "ann", id="room-ann", compensate=give_back if undoes else None)
        await saga.step(pack, "bag")
        saga.abort("no more")

    rooms(shop)
    saga_of(shop, trip)
    with pytest.raises(SagaFailed):
        await shop.run(trip)
    done = ["reserve seat", "reserve ann", "pack bag"]
    assert await shop.effects() == [*done, *(["give back ann"] if undoes else []), "release seat"]
    assert (await shop.row("room-ann"))["status"] == "completed"


async def test_who_is_cancelled_cancels_its_children_first(shop: Shop) -> None:
    """P4, H332: and theirs; what the parent did before is undone when they have ended."""

    async def wing(saga: SagaContext) -> str:
        await saga.step(reserve, "wing", compensate=release)
        return await saga.child(slow_room, "ann", id="room-ann")

    async def trip(saga: SagaContext) -> None:
        await saga.step(reserve, "seat", compensate=release)
        await saga.gather(saga.child(wing, id="wing"), saga.child(slow_room, "ben", id="room-ben"))

    rooms(shop)
    shop.app.saga("wing")(wing)
    saga_of(shop, trip)
    await shop.start(trip)
    await become(shop, order_1="waiting", wing="waiting", room_ann="waiting", room_ben="waiting")
    await cancel(shop)
    await become(shop, order_1="compensated", wing="compensated", room_ann="compensated", room_ben="compensated")
    undone = [what for what in await shop.effects() if what.startswith("release")]
    assert sorted(undone) == ["release ann", "release ben", "release seat", "release wing"]
    assert undone.index("release ann") < undone.index("release wing") < undone.index("release seat") == 3
    assert await waits(shop) == 0


async def test_a_child_behind_its_pivot_is_waited_for(shop: Shop) -> None:
    """P4, H332: it only goes forward; then its compensation undoes what it has done, and all else is undone."""

    async def trip(saga: SagaContext) -> None:
        await saga.step(reserve, "seat", compensate=release)
        await saga.child(settled_room, "ann", id="room-ann", compensate=give_back)

    rooms(shop)
    saga_of(shop, trip)
    await shop.start(trip)
    await become(shop, order_1="waiting", room_ann="waiting")
    await cancel(shop)
    await shop.rest()
    await become(shop, order_1="compensating", room_ann="waiting")
    assert await shop.effects() == ["reserve seat", "reserve ann"]
    await go(shop, "ann")
    await become(shop, order_1="compensated", room_ann="completed")
    assert await shop.effects() == ["reserve seat", "reserve ann", "give back ann", "release seat"]


async def test_an_id_that_another_saga_has_is_told(shop: Shop) -> None:
    """P4, H180, H331: also with the same arguments: it is no child of this one, and nothing of it is touched."""

    async def trip(saga: SagaContext, guest: str) -> str:
        try:
            return await saga.child(slow_room, guest, id="room")
        except StepFailed as error:
            return error.type

    rooms(shop)
    saga_of(shop, trip)
    await shop.start(slow_room, "ann", id="room")
    assert await shop.run(trip, "ann") == "txpatterns.errors:IdReused"
    assert await shop.run(trip, "ben", id="order-2") == "txpatterns.errors:IdReused"
    assert (await statuses(shop))["room"] == "waiting"


async def test_a_parent_of_which_something_runs_is_told(database) -> None:
    """P4, H331: the branch that has waited for the child goes on, and the other one is not disturbed."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: StepTransaction) -> None:
        begun.set()
        await go_on.wait()

    async def told(tx: StepTransaction, hold: str) -> None:
        go_on.set()

    async def trip(saga: SagaContext) -> None:
        async def branch() -> None:
            await saga.step(told, await saga.child(slow_room, "ann", id="room-ann"))

        await saga.gather(saga.step(slow), branch())

    async with opened(database.url("asyncpg")) as shop:
        rooms(shop)
        saga_of(shop, trip)
        handle = await shop.start(trip)
        async with shop.app.running():
            await begun.wait()
            await go(shop, "ann")
            await handle.result(timeout=PATIENCE)


async def test_a_child_is_kept_until_its_parent_has_ended(shop: Shop) -> None:
    """P4, I16, H331: its parent may still ask what it has come to."""

    async def trip(saga: SagaContext) -> str:
        told = await saga.child(room, "ann", id="room-ann")
        await saga.wait_for(Go, key="trip", timeout=None)
        return told

    rooms(shop)
    saga_of(shop, trip, signals=[Go])
    handle = await shop.start(trip)
    await become(shop, order_1="waiting", room_ann="completed")
    await shop.rest()
    store, age = SagaStore(shop.app.database), timedelta(seconds=-60)
    assert await shop.app.database.transact(lambda connection: store.clean(connection, age)) == 0
    await go(shop, "trip")
    await shop.rest()
    assert await handle.result() == "hold ann"
    assert await shop.app.database.transact(lambda connection: store.clean(connection, age)) == 2


async def test_a_compensation_behind_the_pivot_is_refused(sqlite_shop: Shop) -> None:
    """P4: as that of a step."""

    async def trip(saga: SagaContext) -> None:
        saga.pivot()
        await saga.child(room, "ann", id="room-ann", compensate=give_back)

    rooms(sqlite_shop)
    saga_of(sqlite_shop, trip)
    await sqlite_shop.start(trip)
    await sqlite_shop.rest()
    assert "after the pivot" in (await sqlite_shop.row())["attention"]
    assert list(await statuses(sqlite_shop)) == ["order-1"]


async def told(shop: Shop, id: str = "order-1") -> list[str]:
    """What `txp saga show` says of what it waits for."""
    found = await shop.app.database.read(lambda connection: find_saga(connection, shop.app.database, id))
    assert found is not None
    opened = open_of(found.stood.entries, goes_on=True, code=None, others=found.relations.waits)
    return [line for line in lines_of([], opened) if line.startswith("now")]


async def test_an_operator_is_told_of_parents_and_children(sqlite_shop: Shop) -> None:
    """P6, H331: whose child it is, and how the children are that are waited for; nobody decides for a child."""

    async def trip(saga: SagaContext) -> str:
        return await saga.child(settled_room, "ann", id="room-ann")

    rooms(sqlite_shop)
    saga_of(sqlite_shop, trip)
    await sqlite_shop.start(trip)
    await become(sqlite_shop, order_1="waiting", room_ann="waiting")
    assert await told(sqlite_shop) == ["now: child shop.settled_room room-ann at 1 waits: it is waiting"]
    find = partial(find_saga, database=sqlite_shop.app.database, id="room-ann")
    child = await sqlite_shop.app.database.read(find)
    assert child is not None
    assert child.relations.parent == "shop.order order-1, at 1"
    hand = SagaInHand(sqlite_shop.app.database, "order-1", None, Deed("ann@desk", "no more"))
    code = SagaCode(sqlite_shop.app.sagas.definitions, sqlite_shop.app.outbox)
    with pytest.raises(SagaKept, match="nobody can tell"):
        await hand.resolve(code, "1", '"hold"')
    with pytest.raises(SagaKept, match="does not fail"):
        await hand.skip(code, "1")
    await hand.cancel()
    await sqlite_shop.rest()
    await become(sqlite_shop, order_1="compensating", room_ann="waiting")
    expected = "now: child shop.settled_room room-ann at 1 is cancelled, and waited for: it is waiting"
    assert await told(sqlite_shop) == [expected]


async def test_an_operator_who_skips_a_wait_cancels_the_child_that_is_dropped_by_that(sqlite_shop: Shop) -> None:
    """P4, H332, H323: as the engine would."""

    async def trip(saga: SagaContext) -> str:
        try:
            await saga.first(saga.wait_for(Go, key="trip", timeout=None), saga.child(slow_room, "ann", id="room-ann"))
        except WaitTimedOut:
            return "nobody went"
        return ""

    rooms(sqlite_shop)
    saga_of(sqlite_shop, trip, signals=[Go])
    handle = await sqlite_shop.start(trip)
    await become(sqlite_shop, order_1="waiting", room_ann="waiting")
    code = SagaCode(sqlite_shop.app.sagas.definitions, sqlite_shop.app.outbox)
    await SagaInHand(sqlite_shop.app.database, "order-1", None, Deed("ann@desk", "no more")).skip(code, "1")
    await become(sqlite_shop, order_1="completed", room_ann="compensated")
    assert await handle.result() == "nobody went"
