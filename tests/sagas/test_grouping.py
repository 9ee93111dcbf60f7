"""Writing for many sagas at once: what is committed is the same as if each had been written alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from rig.waiting import until
from sagas.support import Shop, opened, saga_of
from txpatterns.errors import LeaseLost
from txpatterns.sagas import Call, SagaContext
from txpatterns.sagas.claims import Claimed, Start
from txpatterns.sagas.facts import Begun, Finished, Mark
from txpatterns.sagas.grouping import GroupWriter
from txpatterns.sagas.schema import Status, saga_journal_table, saga_table
from txpatterns.sagas.store import SagaStore, Standing, Write

SAGAS = 12
BEGUN = Write([Begun(Mark("1", "call", "charge", "d"))])
SLEEPS = Write([Begun(Mark("1", "call", "charge", "d"))], Standing(Status.WAITING, timedelta(hours=1), is_owned=False))
FLAGGED = Write((), Standing(Status.RUNNING, None, is_owned=False, attention="no\x00end", diverged="print"))
FAILED = Write([Finished()], Standing(Status.COMPENSATED, None, is_owned=False, error="Declined: 7"))
ENDED = Write([Finished(value="7")], Standing(Status.COMPLETED, None, is_owned=False, result="7"))
KINDS = [BEGUN, SLEEPS, FLAGGED, FAILED, ENDED, Write()]


async def started(shop: Shop, count: int = SAGAS) -> list[Claimed]:
    """Start some sagas that belong to somebody from the beginning."""
    store, sagas = SagaStore(shop.app.database), list[Claimed]()
    for number in range(count):
        start = Start("shop.order", f"order-{number}", 1, "[]", "digest", {})
        await shop.app.database.transact(lambda connection, start=start: store.start(connection, start, "me"))
        assert start.claimed is not None
        sagas.append(start.claimed)
    return sagas


async def owner_of(shop: Shop) -> str | None:
    """Wait until sagas that start belong to the engine that runs here; gives who that is."""

    async def owner() -> str | None:
        assert shop.app._parts.engine is not None
        return shop.app._parts.engine.owner_of(1)

    await until(owner, "the engine")
    return await owner()


async def together(
    group: GroupWriter, sagas: Sequence[Claimed], writes: Sequence[Write], n: int = 1
) -> list[BaseException | None]:
    given = zip(sagas, writes, strict=True)
    return await asyncio.gather(*(group.write(saga, n, write) for saga, write in given), return_exceptions=True)


def kept(shop: Shop, connection: sa.Connection) -> list[tuple[object, ...]]:
    """Give what is kept of each saga, but for numbers and the instants themselves."""
    saga, journal = saga_table.c, saga_journal_table.c
    far = saga.due_at > shop.app.database.now(timedelta(minutes=30))
    stands = (saga.status, saga.owner, saga.due_at.is_(None), far, saga.ended_at.is_(None), saga.attention)
    query = sa.select(*stands, saga.diverged, saga.error, saga.result, journal.n, journal.facts)
    joined = query.outerjoin(saga_journal_table, journal.saga == saga.number).order_by(saga.number)
    return [tuple(row) for row in connection.execute(joined)]


@pytest.fixture
def alone(monkeypatch) -> list[Claimed]:
    """Who was written alone."""
    found: list[Claimed] = []
    really = GroupWriter._alone

    async def counted(self: GroupWriter, saga: Claimed, n: int, write: Write) -> None:
        found.append(saga)
        await really(self, saga, n, write)

    monkeypatch.setattr(GroupWriter, "_alone", counted)
    return found


async def test_what_is_written_together_is_what_each_would_have_written(shop: Shop, alone: list[Claimed]) -> None:
    """P4, H325: facts, standing, times and ends of all kinds; those of one are nobody else's."""
    database = shop.app.database
    store = SagaStore(database)
    one, other = await started(shop, 2 * len(KINDS)), list[Claimed]()
    one, other = one[: len(KINDS)], one[len(KINDS) :]
    group = GroupWriter(store)
    first = asyncio.ensure_future(group.write(one[0], 1, KINDS[0]))
    await asyncio.sleep(0)
    assert await together(group, one[1:], KINDS[1:]) == [None] * (len(KINDS) - 1)
    await first
    assert alone == one[:1]
    for saga, write in zip(other, KINDS, strict=True):
        await database.transact(lambda connection, saga=saga, write=write: store.write(connection, saga, 1, write))
    rows = await database.read(lambda connection: kept(shop, connection))
    assert rows[: len(KINDS)] == rows[len(KINDS) :]


async def test_who_has_lost_its_saga_writes_nothing_and_the_others_do(shop: Shop, alone: list[Claimed]) -> None:
    """P4, H168, H325: the epoch is looked at for each of them."""
    sagas = await started(shop)
    stolen = sa.update(saga_table).where(saga_table.c.number == sagas[5].number).values(epoch=2)
    await shop.app.database.execute(stolen)
    told = await together(GroupWriter(SagaStore(shop.app.database)), sagas, [BEGUN] * SAGAS)
    assert [type(error) for error in told] == [LeaseLost if n == 5 else type(None) for n in range(SAGAS)]
    assert alone == [sagas[0], sagas[5]]
    count = sa.select(sa.func.count()).select_from(saga_journal_table)
    assert await shop.app.database.read(lambda connection: connection.execute(count).scalar_one()) == SAGAS - 1


async def test_one_that_cannot_be_written_does_not_keep_the_others_from_it(shop: Shop) -> None:
    """P4, H325: a place in a journal that is taken already is that saga's trouble alone."""
    sagas = await started(shop)
    group = GroupWriter(SagaStore(shop.app.database))
    await group.write(sagas[5], 1, BEGUN)
    told = await together(group, sagas, [BEGUN] * SAGAS)
    assert [error is None for error in told] == [n != 5 for n in range(SAGAS)]
    assert isinstance(told[5], sa.exc.IntegrityError)


async def test_a_row_that_somebody_has_locked_does_not_keep_the_others_waiting(database) -> None:
    """P4, H325: an operator looks at one saga in a long transaction."""
    async with opened(database.url("asyncpg")) as shop:
        sagas = await started(shop)
        group = GroupWriter(SagaStore(shop.app.database))
        locked = sa.select(saga_table.c.number).where(saga_table.c.number == sagas[5].number).with_for_update()
        async with shop.app.database.engine.connect() as operator:
            await operator.execute(locked)
            writing = [asyncio.ensure_future(group.write(saga, 1, BEGUN)) for saga in sagas]
            await asyncio.gather(*writing[:5], *writing[6:])
            assert not writing[5].done()
        await writing[5]


async def test_when_the_link_fails_all_are_told_that_nobody_knows(shop: Shop, monkeypatch) -> None:
    """P4, H174, H325: none waits for ever, and none takes it for written."""
    sagas = await started(shop)
    group = GroupWriter(SagaStore(shop.app.database))

    def fails(connection: sa.Connection, members: object) -> set[int]:
        raise ConnectionResetError("the link is gone")

    monkeypatch.setattr(group, "_all", fails)
    told = await together(group, sagas, [BEGUN] * SAGAS)
    assert [type(error) for error in told] == [type(None), *[ConnectionResetError] * (SAGAS - 1)]
    monkeypatch.undo()
    assert await together(group, sagas[1:], [BEGUN] * (SAGAS - 1)) == [None] * (SAGAS - 1)


async def test_who_does_not_wait_any_more_does_not_keep_the_others(shop: Shop) -> None:
    """P4, H325: a saga's run is cancelled while its write waits its turn, and while it is under way."""
    sagas = await started(shop)
    group = GroupWriter(SagaStore(shop.app.database))
    writing = [asyncio.ensure_future(group.write(saga, 1, BEGUN)) for saga in sagas]
    await asyncio.sleep(0)
    writing[0].cancel()
    writing[5].cancel()
    told = await asyncio.gather(*writing, return_exceptions=True)
    assert [n for n, error in enumerate(told) if error is not None] == [0, 5]
    await group.finish()


async def test_who_is_cancelled_while_its_write_is_under_way_reads_it_afterwards(database) -> None:
    """P4, H325: its run begins anew from the journal, and must not begin before what it has written."""
    async with opened(database.url("asyncpg")) as shop:
        sagas = await started(shop)
        store = SagaStore(shop.app.database)
        group = GroupWriter(store)
        locked = sa.select(saga_table.c.number).where(saga_table.c.number == sagas[5].number).with_for_update()
        async with shop.app.database.engine.connect() as operator:
            await operator.execute(locked)
            writing = [asyncio.ensure_future(group.write(saga, 1, BEGUN)) for saga in sagas]
            await asyncio.gather(*writing[:5], *writing[6:])
            writing[5].cancel()
            await asyncio.sleep(0)
            assert not writing[5].done()
        with pytest.raises(asyncio.CancelledError):
            await writing[5]
        assert len(await shop.app.database.read(partial(store.journal, saga=sagas[5]))) == 1


async def test_sagas_that_call_at_the_same_time_commit_together(shop: Shop) -> None:
    """P4: fewer transactions than writes; each call is made once all the same."""
    keys: list[str] = []
    everyone = asyncio.Event()

    async def charge(call: Call, amount: int) -> int:
        keys.append(call.key)
        if len(keys) == SAGAS:
            everyone.set()
        await everyone.wait()
        return amount

    async def order(saga: SagaContext, amount: int) -> int:
        return await saga.call(charge, amount)

    saga_of(shop, order)
    async with shop.app.running(relay=False, consume=False):
        handles = [await shop.start(order, n, id=f"order-{n}") for n in range(SAGAS)]
        assert await asyncio.gather(*(handle.result() for handle in handles)) == list(range(SAGAS))
    assert len(set(keys)) == len(keys) == SAGAS


async def test_a_saga_that_starts_where_sagas_run_is_not_claimed(shop: Shop) -> None:
    """P4, H326: its start makes it the engine's, which begins it after the commit, and never before or without it."""

    async def order(saga: SagaContext) -> int:
        return 7

    saga_of(shop, order)
    async with shop.app.running(relay=False, consume=False):
        await owner_of(shop)
        async with shop.app.session() as session:
            shop.app.sagas.start(session, order, id="never")
            await session.flush()
            await session.rollback()
        handle = await shop.start(order, id="order-1")
        assert await handle.result() == 7
        assert (await shop.row())["epoch"] == 1
        assert await shop.app.sagas.handle(order, "never").status() is None


async def test_a_start_of_an_engine_that_stops_is_claimed_by_the_next(shop: Shop) -> None:
    """P4, H326: what was committed with an owner that never began it goes on elsewhere."""

    async def order(saga: SagaContext) -> int:
        return 7

    saga_of(shop, order)
    async with shop.app.running(relay=False, consume=False):
        owner, store = await owner_of(shop), SagaStore(shop.app.database)
        start = Start("shop.order", "order-1", 1, "[]", "digest", {})
        await shop.app.database.transact(lambda connection: store.start(connection, start, owner))
    handle = shop.app.sagas.handle(order, "order-1")
    async with shop.app.running(relay=False, consume=False):
        assert await handle.result() == 7
    assert (await shop.row())["epoch"] == 2
