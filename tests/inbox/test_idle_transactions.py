"""A transaction that does nothing for longer than its handler may take keeps nobody else waiting."""

import asyncio
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from inbox.support import LONG, TIMEOUT, Noted, World, eventually, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.inbox import SyncTransaction, Transaction, claims
from txpatterns.testing.clock import ManualClock

BRIEF = timedelta(milliseconds=20)
LIMIT = sa.text("SHOW idle_in_transaction_session_timeout")

pytestmark = pytest.mark.server


@pytest.fixture(params=["asyncpg", "psycopg"])
async def world(request, database, monkeypatch):
    monkeypatch.setattr(claims, "_GRACE", timedelta(0))
    async with Database(database.url(request.param)) as ours:
        yield await prepared(ours)


async def has_ended(world, pid):
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid").bindparams(pid=pid)
    async with asyncio.timeout(TIMEOUT):
        while await world.database.read(lambda c: c.scalar(query)):  # noqa: ASYNC110 - it asks the server
            await asyncio.sleep(0.005)


async def test_who_takes_a_message_over_from_a_process_that_hangs_is_not_kept_waiting(world):
    """P2, P7, H203, H206: the server has ended the other's transaction, of which nothing can come any more."""
    hangs, go, runs = world.consumer(handler_timeout=BRIEF), threading.Event(), []

    @hangs.on(Noted)
    def noted(event: Noted, tx: SyncTransaction) -> None:
        runs.append(event.number)
        assert go.wait(LONG)
        tx.session.execute(note(event.book, 100 + event.number))

    other = World(world.database)
    taker = other.consumer()

    @taker.on(Noted, name="noted")
    async def takes(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    (message,) = world.put(Noted(book="a", number=1))
    async with running(hangs):
        await eventually(lambda: runs)
        other.broker.put(message)
        async with running(taker):
            await other.broker.all_acked()
        assert await world.effects() == [("a", 1)]
        go.set()
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    assert (await world.waiting(), await world.dead(), set(runs)) == ([], [], {1})
    assert world.told.counts["duplicate"] == 1


async def test_a_handler_whose_transaction_was_ended_has_failed(database):
    """P7, H45, H206: it is no outage, as which it would be tried for ever."""
    clock = ManualClock()
    async with Database(database.url("asyncpg"), clock=clock) as ours:
        world = await prepared(ours)
        consumer, go, runs = world.consumer(policies=quick(1)), threading.Event(), []

        @consumer.on(Noted, timeout=timedelta(minutes=2))
        def noted(event: Noted, tx: SyncTransaction) -> None:
            tx.session.execute(note(event.book, event.number))
            runs.append(tx.session.scalar(sa.text("SELECT pg_backend_pid()")))
            if event.number == 1:
                tx.session.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 1"))
                assert go.wait(LONG)
            tx.session.execute(note(event.book, event.number))

        world.put(*[Noted(book="a", number=number) for number in (1, 2)])
        async with running(consumer):
            await eventually(lambda: runs)
            await has_ended(world, runs[0])
            clock.advance(timedelta(minutes=2))
            go.set()
            await world.broker.all_acked()
            await world.told.until(lambda counts: counts["handled"] == 1)
        (letter,) = await world.dead()
        summary, *stack = letter.error.splitlines()
        assert "app.noted took longer than 0:02:00, and the database ended its transaction" in summary
        assert "test_idle_transactions.py:" in summary
        assert any("direct cause" in line for line in stack)
        assert await world.effects() == [("a", 2), ("a", 2)]


@pytest.mark.parametrize("given", ["ours", "none", "theirs"])
async def test_the_limit_of_a_handler_is_that_of_its_transaction(world, given):
    """P7, H206: in each attempt and each kind of handler; a limit that the server has already is left alone."""
    if given == "theirs":
        setting = "ALTER DATABASE {} SET idle_in_transaction_session_timeout = '77s'"
        name = await world.database.read(lambda c: c.exec_driver_sql("SELECT current_database()").scalar())
        await world.database.transact(lambda c: c.exec_driver_sql(setting.format(f'"{name}"')))
        async with Database(world.database.engine.url) as fresh:
            await see_the_limit(await prepared(fresh), timedelta(minutes=2), "77s")
    elif given == "none":
        await see_the_limit(world, None, "0")
    else:
        await see_the_limit(world, timedelta(minutes=2), "2min")


async def see_the_limit(world, timeout, expected):
    consumer, seen = world.consumer(policies=quick(2), handler_timeout=timeout), []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        seen.append(await tx.session.scalar(LIMIT))
        if len(seen) == 1:
            raise ValueError

    @consumer.on(Noted, name="plain")
    def plain(event: Noted, tx: SyncTransaction) -> None:
        seen.append(tx.session.scalar(LIMIT))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 2)
    assert seen == [expected] * 3
    async with world.database.engine.connect() as connection:
        assert await connection.scalar(LIMIT) == (expected if expected == "77s" else "0")
