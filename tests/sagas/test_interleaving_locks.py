"""A lock that is freed, and sagas that ask for it or give up, in every order of their steps, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from inbox.interleaving import Session, orders, quiet
from inbox.interleaving import opened as sessions_on
from sagas.support import Shop, opened
from txpatterns.sagas.claims import Claimed, Start
from txpatterns.sagas.facts import Finished, Mark, Waiting
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.neighbours import Beside
from txpatterns.sagas.schema import (
    Brought,
    Status,
    saga_journal_table,
    saga_lock_table,
    saga_table,
    saga_wait_table,
)
from txpatterns.sagas.signal_store import WaitRow
from txpatterns.sagas.store import SagaStore, Standing, Write

WAITS = Waiting(Mark("1", "lock", "till", ""), 60.0)
ASKS = Write([WAITS], waits=[WaitRow("1", "", "till", 0, Brought.LOCK)], beside=Beside(asks=[("1", "till")]))
RESTS = Write((), Standing(Status.WAITING, timedelta(hours=1), is_owned=False), rests=True)
LEAVES = Write((), unwaits=["1"], beside=Beside(leaves=["1"]))
ENDS = Write([Finished(value="1")], Standing(Status.COMPLETED, None, is_owned=False), beside=Beside(frees=True))

Step = Callable[[], Awaitable[None]]


@pytest.fixture
async def shop(database) -> AsyncIterator[Shop]:
    async with opened(database.url("asyncpg")) as shop:
        yield shop


def steps_of(store: SagaStore, session: Session, saga: Claimed, *writes: Write, last: bool = True) -> list[Step]:
    """Give the steps of one saga's transactions, one for each write; the last one commits, or is rolled back."""
    steps: list[Step] = []
    for write in writes:
        commits = last or write is not writes[-1]
        steps += [
            partial(session.connection.exec_driver_sql, "SELECT 1"),
            partial(session.connection.run_sync, store.write, saga, 2, write),
            session.connection.commit if commits else session.connection.rollback,
        ]
    return steps


async def three(shop: Shop, store: SagaStore, *, asked: int) -> list[Claimed]:
    """Begin with sagas that are owned; the first has the lock, and those who have ``asked`` wait for it, asleep."""

    def work(connection: sa.Connection) -> list[Claimed]:
        for table in (saga_table, saga_journal_table, saga_wait_table, saga_lock_table):
            connection.execute(sa.delete(table))
        for number in range(3):
            store.start(connection, Start("shop.order", f"order-{number}", 1, "[]", "", {}))
        claimed = store.claim(connection, "me", sa.select(sa.literal("me")), [("shop.order", 1, 1, "")], 3)
        sagas = sorted(claimed, key=lambda saga: saga.number)
        for saga in sagas[: 1 + asked]:
            store.write(connection, saga, 1, ASKS)
        for saga in sagas[1 : 1 + asked]:
            store.write(connection, saga, 2, RESTS)
        return sagas

    return await shop.app.database.transact(work)


async def holders(shop: Shop) -> list[tuple[str, bool]]:
    """Give who has the lock, and whether he knows or is woken."""
    is_due = sa.and_(saga_table.c.due_at.is_not(None), saga_table.c.due_at <= sa.func.clock_timestamp())
    query = sa.select(saga_table.c.id, is_due).where(saga_table.c.number == saga_lock_table.c.saga)
    query = query.where(saga_lock_table.c.held_at.is_not(None))
    rows = await shop.app.database.read(lambda connection: connection.execute(query).all())
    return [(row[0], bool(row[1])) for row in rows]


async def outcomes(shop: Shop, *others: Write, asked: int, crashes: bool = False) -> set[tuple[tuple[str, bool], ...]]:
    """Let the first end while the second does something else, in every order; gives what can come of it."""
    store, engine = SagaStore(shop.app.database), shop.app.database.engine
    found = set()
    async with engine.connect() as watcher, sessions_on(engine, "READ COMMITTED", "READ COMMITTED") as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        for order in orders(3, 3 * len(others)):
            first, second, _ = await three(shop, store, asked=asked)
            ends = steps_of(store, sessions[0], first, ENDS, last=not crashes)
            steps = [iter(ends), iter(steps_of(store, sessions[1], second, *others))]
            for turn in order:
                sessions[turn].ask(next(steps[turn]))
                await quiet(sessions, watcher)
            if crashes:  # whoever claims it next ends it
                await shop.app.database.transact(partial(store.write, saga=first, n=2, write=ENDS))
            found.add(tuple(await holders(shop)))
    return found


@pytest.mark.parametrize("crashes", [False, True], ids=["the holder ends", "the holder dies, and ends later"])
async def test_who_asks_while_it_is_freed_has_it(shop: Shop, crashes: bool) -> None:
    """P4, H333: it finds the lock free, or is woken with it: it never sleeps beside it."""
    assert await outcomes(shop, ASKS, RESTS, asked=0, crashes=crashes) == {(("order-1", True),)}


async def test_who_gives_up_while_it_is_freed_passes_it_on(shop: Shop) -> None:
    """P4, H333: the third has it, whichever comes first, and is woken once."""
    assert await outcomes(shop, LEAVES, asked=2) == {(("order-2", True),)}


async def test_without_a_lock_on_its_name_it_goes_to_nobody(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, H333: the test above is able to fail."""
    monkeypatch.setattr(LockStore, "_lock_names", lambda *_: None)
    assert await outcomes(shop, LEAVES, asked=2) != {(("order-2", True),)}


async def test_a_freed_lock_that_wakes_nobody_is_seen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, H333: so is the first one."""
    pass_on = LockStore._pass_on
    monkeypatch.setattr(LockStore, "_pass_on", lambda *given: pass_on(*given) and [])
    assert (("order-1", False),) in await outcomes(shop, ASKS, RESTS, asked=0)
