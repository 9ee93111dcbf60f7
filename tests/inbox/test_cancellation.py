"""A handler's transaction that is cancelled at any of its awaits."""

import asyncio
import types
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from inbox.support import TIMEOUT, FakeDelivery, Noted, note, prepared, quick
from txpatterns.database import Database
from txpatterns.inbox import State, Transaction
from txpatterns.inbox.deliveries import Deliveries
from txpatterns.inbox.entries import Waiting, entry_of
from txpatterns.inbox.lane_store import First
from txpatterns.inbox.suspicion import Suspicion

OPEN = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state IN ('idle in transaction', 'idle in transaction (aborted)')"""


def open_transactions(connection):
    return connection.exec_driver_sql(OPEN).scalar_one()


@types.coroutine
def counted(awaitable, at_each):
    """Await, and call ``at_each`` whenever the task is about to be suspended."""
    inner, result, error = awaitable.__await__(), None, None
    while True:
        try:
            waited = inner.throw(error) if error is not None else inner.send(result)
        except StopIteration as stop:
            return stop.value
        at_each()
        result = error = None
        try:
            result = yield waited
        except BaseException as raised:  # noqa: BLE001 - handed on to the one who waits
            error = raised


async def cancelled_at(work, number):
    """Run ``work`` and cancel it at its so-manieth await; says whether it came that far."""
    seen = 0

    def at_each():
        nonlocal seen
        if seen == number:
            asyncio.current_task().cancel()
        seen += 1

    async def run():
        await counted(work(), at_each)

    await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True)
    return seen > number


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("kind", ["live", "retry"])
async def test_cancelled_at_every_await_nothing_stays_open_and_nothing_is_lost(database, driver, kind):
    """H6, H142: the connection of a cancelled handler serves nobody else, no transaction stays open, and the message
    has its one effect afterwards."""
    engine = create_async_engine(database.url(driver), pool_size=1, max_overflow=0, pool_timeout=5)
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(3), takeover=timedelta(milliseconds=1))
        consumer.check()
        deliveries = Deliveries(consumer._processing, consumer._retries, Suspicion())

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.execute(note(event.book, event.number))
            await tx.session.execute(sa.text("SELECT 1"))

        number, reached = 0, True
        while reached:
            message = world.message(Noted(book="a", number=number))
            delivery = FakeDelivery(message, False, world.broker)
            if kind == "live":
                reached = await cancelled_at(partial(deliveries.handle, delivery), number)
                await deliveries.handle(delivery)
            else:
                waiting = await stored(world, consumer, message)
                reached = await cancelled_at(partial(consumer._retries.attempt, waiting), number)
                while await world.waiting():
                    await consumer.retry_due()
            async with asyncio.timeout(TIMEOUT):  # the server notices a closed link in its own time
                while await ours.read(open_transactions):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            async with engine.begin() as connection:
                assert (await connection.exec_driver_sql("SELECT 1")).scalar_one() == 1
            number += 1
        assert number > 5
        assert Counter(n for _, n in await world.effects()) == Counter(range(number))
        assert await world.dead() == []
    await engine.dispose()


async def stored(world, consumer, message):
    """Store a message as one whose attempt has been claimed."""
    entry = entry_of("app.noted", message)
    lanes = consumer._processing.lanes
    first = First(State.RETRYING, 1, timedelta(milliseconds=1))
    _, row = await world.database.transact(partial(lanes.admit, entry=entry, first=first))
    return Waiting(row, entry, 1, State.RETRYING)
