"""A saga that goes to sleep and an event that arrives, in every order of their steps, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from inbox.interleaving import Session, orders, quiet
from inbox.interleaving import opened as sessions_on
from sagas.support import Shop, opened
from txpatterns.sagas.claims import Claimed, Start
from txpatterns.sagas.schema import Status, saga_journal_table, saga_signal_table, saga_table, saga_wait_table
from txpatterns.sagas.signal_store import Arrival, SignalStore, WaitRow
from txpatterns.sagas.store import SagaStore, Standing, Write

COMMITTED = "READ COMMITTED"
ROW = WaitRow("1", "paid:", "A1", 0)


@pytest.fixture
async def shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


class Sleeper:
    """The transaction in which a saga's owner lets it wait: what it waits for, where it stands, end."""

    def __init__(self, store: SagaStore, session: Session, saga: Claimed, *, known: bool) -> None:
        self.store, self.session, self.saga, self.known = store, session, saga, known

    async def begin(self) -> None:
        await self.session.connection.exec_driver_sql("SELECT 1")

    async def sleep(self) -> None:
        standing = Standing(Status.WAITING, timedelta(hours=1), is_owned=False)
        write = Write((), standing, waits=[] if self.known else [ROW], rests=True)
        await self.session.connection.run_sync(self.store.write, self.saga, 1, write)

    async def end(self) -> None:
        await self.session.connection.commit()


class Bringer:
    """The transaction that brings an event."""

    def __init__(self, store: SagaStore, session: Session) -> None:
        self.store, self.session = store, session

    async def begin(self) -> None:
        await self.session.connection.exec_driver_sql("SELECT 1")

    async def arrive(self) -> None:
        arrival = Arrival("paid:", "A1", "message-1", "{}")
        await self.session.connection.run_sync(self.store.signals.arrive, arrival)

    async def end(self) -> None:
        await self.session.connection.commit()


async def claimed(shop: Shop, store: SagaStore, *, known: bool) -> Claimed:
    """Begin with one saga that is owned, and that waits already if ``known``."""

    def work(connection: sa.Connection) -> Claimed:
        for table in (saga_table, saga_journal_table, saga_wait_table, saga_signal_table):
            connection.execute(sa.delete(table))
        store.start(connection, Start("shop.order", "order-1", 1, "[]", "", {}))
        (saga,) = store.claim(connection, "me", sa.select(sa.literal("me")), [("shop.order", 1, 1, "")], 1)
        if known:
            store.signals.wait(connection, saga.number, ROW)
        return saga

    return await shop.app.database.transact(work)


async def asleep(shop: Shop, signals: SignalStore) -> bool:
    """Whether the saga sleeps although its event is there."""
    query = sa.select(saga_table.c.due_at <= sa.func.clock_timestamp())
    due = await shop.app.database.read(lambda connection: connection.execute(query).scalar_one())
    arrived = await shop.app.database.read(lambda connection: signals.find(connection, ROW))
    assert arrived is not None, "the event is lost"
    return not due


@pytest.mark.parametrize("known", [False, True], ids=["begins to wait", "rests again"])
async def test_in_every_order_one_of_the_two_sees_the_other(shop: Shop, known: bool) -> None:
    """P4, H169: the saga sees the event, or the event wakes the saga: it never sleeps beside it."""
    store = SagaStore(shop.app.database)
    engine = shop.app.database.engine
    wrong = []
    async with engine.connect() as watcher, sessions_on(engine, COMMITTED, COMMITTED) as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(3, 3):
            saga = await claimed(shop, store, known=known)
            sleeper, bringer = Sleeper(store, sessions[0], saga, known=known), Bringer(store, sessions[1])
            steps = [
                iter((sleeper.begin, sleeper.sleep, sleeper.end)),
                iter((bringer.begin, bringer.arrive, bringer.end)),
            ]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            if await asleep(shop, store.signals):
                wrong.append(order)
    assert wrong == []


async def test_without_their_common_lock_they_miss_each_other(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, H169: the test above is able to fail."""
    monkeypatch.setattr(SignalStore, "_lock", lambda *_: None)
    with pytest.raises(AssertionError):
        await test_in_every_order_one_of_the_two_sees_the_other(shop, known=False)
