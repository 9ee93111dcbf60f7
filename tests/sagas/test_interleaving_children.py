"""A parent that goes to sleep and a child that ends, in every order of their steps, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import sqlalchemy as sa

from inbox.interleaving import Session, orders, quiet
from inbox.interleaving import opened as sessions_on
from sagas.support import Shop, opened
from txpatterns.sagas.claims import Claimed, Start
from txpatterns.sagas.facts import Finished
from txpatterns.sagas.neighbours import Beside, Neighbours
from txpatterns.sagas.schema import Brought, Status, saga_journal_table, saga_table, saga_wait_table
from txpatterns.sagas.signal_store import WaitRow
from txpatterns.sagas.store import SagaStore, Standing, Write

ROW = WaitRow("1", "shop.child", "child-1", 0, Brought.CHILD)
KNOWN = [("shop.parent", 1, 1, ""), ("shop.child", 1, 1, "")]


@pytest.fixture
async def shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


class Writing:
    """One transaction, which writes for one saga; it may crash before its commit."""

    def __init__(self, store: SagaStore, session: Session, saga: Claimed, write: Write, *, crashes: bool) -> None:
        self.store, self.session, self.saga = store, session, saga
        self.planned, self.crashes = write, crashes

    async def begin(self) -> None:
        await self.session.connection.exec_driver_sql("SELECT 1")

    async def write(self) -> None:
        await self.session.connection.run_sync(self.store.write, self.saga, 1, self.planned)

    async def end(self) -> None:
        await (self.session.connection.rollback() if self.crashes else self.session.connection.commit())


async def family(shop: Shop, store: SagaStore) -> tuple[Claimed, Claimed]:
    """Begin with a parent and its child, which are both owned; the parent waits for the child."""

    def work(connection: sa.Connection) -> tuple[Claimed, Claimed]:
        for table in (saga_table, saga_journal_table, saga_wait_table):
            connection.execute(sa.delete(table))
        store.start(connection, Start("shop.parent", "parent-1", 1, "[]", "", {}))
        number = connection.execute(sa.select(saga_table.c.number)).scalar_one()
        store.start(connection, Start("shop.child", "child-1", 1, "[]", "", {}, number, "1"))
        store.signals.wait(connection, number, ROW)
        claimed = store.claim(connection, "me", sa.select(sa.literal("me")), KNOWN, 2)
        parent, child = sorted(claimed, key=lambda saga: saga.number)
        return parent, child

    return await shop.app.database.transact(work)


RESTS = Write((), Standing(Status.WAITING, None, is_owned=False), rests=True)


def ends(child: Claimed) -> Write:
    standing = Standing(Status.COMPLETED, None, is_owned=False, result="1")
    return Write([Finished(value="1")], standing, beside=Beside(parent=child.parent))


async def sleeps(shop: Shop) -> bool:
    """Whether the parent sleeps although its child has ended."""
    both = {
        "parent": sa.select(saga_table.c.due_at <= sa.func.clock_timestamp()),
        "child": sa.select(saga_table.c.ended_at),
    }

    def work(connection: sa.Connection) -> bool:
        found = {
            name: connection.execute(query.where(saga_table.c.id == f"{name}-1")).scalar_one()
            for name, query in both.items()
        }
        return found["child"] is not None and not found["parent"]

    return await shop.app.database.read(work)


async def wrong_orders(shop: Shop, *, parent_crashes: bool = False, child_crashes: bool = False) -> list[object]:
    store, engine = SagaStore(shop.app.database), shop.app.database.engine
    wrong: list[object] = []
    async with engine.connect() as watcher, sessions_on(engine, "READ COMMITTED", "READ COMMITTED") as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(3, 3):
            parent, child = await family(shop, store)
            rest = Writing(store, sessions[0], parent, RESTS, crashes=parent_crashes)
            end = Writing(store, sessions[1], child, ends(child), crashes=child_crashes)
            steps = [iter((each.begin, each.write, each.end)) for each in (rest, end)]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            if child_crashes:  # whoever claims it next ends it
                await shop.app.database.transact(partial(store.write, saga=child, n=1, write=ends(child)))
            if await sleeps(shop):
                wrong.append(order)
    return wrong


@pytest.mark.parametrize("crashes", ["nobody", "the parent", "the child"])
async def test_in_every_order_the_parent_learns_of_the_end(shop: Shop, crashes: str) -> None:
    """P4, H331: it sees that its child has ended, or the end wakes it: it never sleeps beside it."""
    who = {"parent_crashes": crashes == "the parent", "child_crashes": crashes == "the child"}
    assert await wrong_orders(shop, **who) == []


async def test_who_wakes_only_whom_it_sees_waiting_misses_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, H331: the test above is able to fail."""

    def without_lock(self: Neighbours, connection: sa.Connection, saga: int, beside: Beside) -> None:
        waits = (saga_table.c.number == beside.parent, saga_table.c.status == Status.WAITING)
        if connection.execute(sa.select(saga_table.c.number).where(*waits)).first() is not None:
            connection.execute(sa.update(saga_table).where(*waits).values(due_at=self.database.now()))

    monkeypatch.setattr(Neighbours, "change", without_lock)
    assert await wrong_orders(shop) != []
