"""A handler's transaction that is cancelled at any of its awaits."""

import asyncio
import gc
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from database.cancelling import cancelled_at
from inbox.support import LONG, TIMEOUT, FakeDelivery, Noted, note, prepared, quick
from txpatterns.database import Database, finishing
from txpatterns.inbox import State, Transaction
from txpatterns.inbox.entries import WaitingEntry, entry_of
from txpatterns.inbox.lane_store import First

OPEN = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state IN ('idle in transaction', 'idle in transaction (aborted)')"""


def open_transactions(connection):
    return connection.exec_driver_sql(OPEN).scalar_one()


@pytest.mark.parametrize("kind", ["live", "retry"])
async def test_cancelled_at_every_await_nothing_stays_open_and_nothing_is_lost(any_database, kind):
    """H6, H142: the connection of a cancelled handler serves nobody else, no transaction and no connection stays open,
    and the message has its one effect afterwards. The awaits in which a connection is made are among them."""
    assert await cancelled_everywhere(any_database, kind) > 10


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_cancellation_that_is_repeated_until_the_task_ends_does_no_more(database, driver):
    """H6: the same where the cancellation comes again at each later await, as a cancel scope of anyio does it."""
    # Not on SQLite: aiosqlite waits for ever for a close that is cancelled in the middle.
    assert await cancelled_everywhere(database.url(driver), "live", again=True) > 10


async def cancelled_everywhere(url, kind, *, again=False):
    """Cancel the handling of a message at each of its awaits in turn; gives their number."""
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(3), takeover=timedelta(milliseconds=1))
        consumer.check()
        deliveries = consumer._consuming.deliveries

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.execute(note(event.book, event.number))
            await tx.session.execute(sa.text("SELECT 1"))

        number, reached = 0, True
        try:
            while reached:
                message = world.message(Noted(book="a", number=number))
                handle = partial(deliveries.handle, FakeDelivery(message, False, world.broker))
                attempt = handle
                if kind == "retry":
                    attempt = partial(consumer._consuming.due_attempts.attempt, await stored(world, consumer, message))
                await engine.dispose()  # so that the attempt makes its connection
                reached = await cancelled_at(attempt, number, again=again)
                if kind == "live":
                    await handle()
                while await world.waiting():
                    await consumer.retry_due()
                await nothing_open(engine, ours)
                number += 1
        finally:
            await engine.dispose()
        assert Counter(n for _, n in await world.effects()) == Counter(range(number))
        assert await world.dead() == []
    gc.collect()  # a connection that nobody closed says so here
    return number


async def nothing_open(engine, ours):
    """See that the pool has its one connection to give and that the server has no transaction of a lost one."""
    async with engine.begin() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar_one() == 1
    assert engine.pool.checkedout() == 0
    async with asyncio.timeout(TIMEOUT):  # the server notices a closed link in its own time
        while not ours.is_sqlite and await ours.read(open_transactions):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def stored(world, consumer, message):
    """Store a message as one whose attempt has been claimed."""
    entry = entry_of("app.noted", message)
    lanes = consumer._consuming.processing.lanes
    first = First(State.RETRYING, 1, timedelta(milliseconds=1))
    _, row = await world.database.transact(partial(lanes.admit, entry=entry, first=first))
    return WaitingEntry(row, entry, 1, State.RETRYING)


async def test_a_handler_that_waits_is_cancelled_at_once(sqlite_world, monkeypatch):
    """H6: only the opening and the commit are waited for; what the handler awaits is cut off when it is cancelled."""
    monkeypatch.setattr(finishing, "_PATIENCE", LONG)
    world, begun, ended = sqlite_world, asyncio.Event(), []
    consumer = world.consumer()
    consumer.check()
    deliveries = consumer._consuming.deliveries

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.number)

    delivery = FakeDelivery(world.message(Noted(book="a", number=1)), False, world.broker)
    handling = asyncio.create_task(deliveries.handle(delivery))
    async with asyncio.timeout(TIMEOUT):
        await begun.wait()
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
    assert (ended, await world.effects(), await world.inbox()) == ([1], [], [])
