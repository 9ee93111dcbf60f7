"""Handlers that do not end: cut off where they can be, named where they cannot."""

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta

import pytest

from inbox.support import LONG, Echoed, Noted, eventually, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError
from txpatterns.execution import underway
from txpatterns.execution.threads import Threads
from txpatterns.inbox import ConsumerSettings, SyncTransaction, Transaction
from txpatterns.outbox.schema import outbox_table
from txpatterns.runtime.outages import Outages, Stopped
from txpatterns.testing.clock import ManualClock

BRIEF = timedelta(milliseconds=20)


@pytest.mark.parametrize("said", ["for the handler", "for all"])
async def test_a_handler_that_hangs_is_cancelled_at_its_limit_and_its_key_goes_on(world, said):
    """P3, P7, H203: a failed attempt, told with the line where it hung, and nothing of it is kept."""
    settings = {"handler_timeout": BRIEF} if said == "for all" else {}
    consumer, ended = world.consumer(policies=quick(2), **settings), []

    @consumer.on(Noted, timeout=BRIEF if said == "for the handler" else None)
    async def noted(event: Noted, tx: Transaction) -> None:
        tx.emit(Echoed(book=event.book, number=event.number))
        if event.number == 1:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(event.number)

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts, ended) == ("exhausted", 2, [1, 1])
    summary = letter.error.splitlines()[0]
    assert "TXP-1404" in summary
    assert " in test_a_handler_that_hangs_is_cancelled_at_its_limit_and_its_key_goes_on.<locals>.noted)" in summary
    assert len(await world.rows(outbox_table)) == 1


async def test_a_handlers_own_time_out_in_the_middle_of_a_statement_is_its_failure(postgres_world):
    """P7, H203: the connection is given up by it, which is no outage: the attempt counts, and is not made for ever."""
    world = postgres_world
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if event.number == 1:
            async with asyncio.timeout(0.05):
                await (await tx.session.connection()).exec_driver_sql(f"SELECT pg_sleep({LONG})")

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    (letter,) = await world.dead()
    assert ("TimeoutError" in letter.error, letter.attempts) == (True, 2)
    assert await world.effects() == [("a", 2)]


async def test_a_handler_that_ends_well_although_it_was_cut_off_is_done(sqlite_world):
    """P2, H203: it has done its work, and nothing else has begun."""
    world = sqlite_world
    consumer = world.consumer(policies=quick(1), handler_timeout=BRIEF)

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert (await world.effects(), await world.dead()) == ([("a", 1)], [])


async def test_a_plain_handler_beyond_its_limit_is_named_and_has_its_effect_once(any_database, caplog, monkeypatch):
    """P2, P3, H144, H203: nobody can interrupt a thread: it keeps its key, is blamed, and may end well."""
    monkeypatch.setattr(underway, "_LOOK", timedelta(0))
    clock = ManualClock()
    async with Database(any_database, clock=clock) as database:
        world = await prepared(database)
        consumer, runs, go = world.consumer(policies=quick(1)), [], threading.Event()

        @consumer.on(Noted, timeout=timedelta(minutes=2))
        def noted(event: Noted, tx: SyncTransaction) -> None:
            runs.append(event.number)
            assert event.number == 2 or go.wait(LONG)
            tx.session.execute(note(event.book, event.number))

        world.put(*[Noted(book="a", number=number) for number in (1, 2)])
        async with running(consumer):
            await eventually(lambda: runs)
            assert consumer.attention() == []
            clock.advance(timedelta(seconds=61))
            (told,) = consumer.attention()
            assert told.startswith("app.noted has been running for 61 s at note.added ")
            await eventually(lambda: "has been running for 61 s" in caplog.text)
            clock.advance(timedelta(minutes=1))
            await eventually(lambda: "beyond its limit of 0:02:00 and cannot be interrupted" in caplog.text)
            assert runs == [1]
            go.set()
            await world.broker.all_acked()
            assert consumer.attention() == []
        assert await world.effects() == [("a", 1), ("a", 2)]
        assert await world.dead() == []
        lines = [record.getMessage() for record in caplog.records if "has been running" in record.getMessage()]
        assert len(lines) == 2
        assert all("test_limits.py:" in line for line in lines)


async def test_a_stop_waits_for_no_thread_that_hangs(postgres_world, monkeypatch):
    """P7, H37, H203: the consumer returns, and the process may end: the thread is a daemon's."""
    world = postgres_world
    consumer, go = world.consumer(stop_within=timedelta(0)), threading.Event()
    threads = []

    @consumer.on(Noted)
    def noted(event: Noted, tx: SyncTransaction) -> None:
        threads.append(threading.current_thread())
        go.wait(LONG)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await eventually(lambda: threads)
    assert threads[0].daemon
    assert world.broker.acked == []
    go.set()


async def test_a_thread_tells_its_error_and_survives_the_end_of_its_loop():
    """P7, H203: whatever it is, and although nobody waits any more; and it is used again."""

    def fails():
        raise SystemExit(3)

    threads, go, seen = Threads(), threading.Event(), []
    with pytest.raises(SystemExit):
        await threads.run(fails)
    used = await threads.run(threading.current_thread)
    assert used is await threads.run(threading.current_thread)

    def cut_off():
        async def main():
            hangs = threads.run(lambda: seen.append(threading.current_thread()) or go.wait(LONG))
            task = asyncio.create_task(hangs)
            await eventually(lambda: seen)
            task.cancel()

        asyncio.run(main())

    await asyncio.to_thread(cut_off)
    assert seen == [used]
    assert used is not await threads.run(threading.current_thread)
    go.set()


def test_a_limit_is_more_than_nothing():
    """UX: refused where it is given."""
    with pytest.raises(ConfigurationError, match="handler_timeout is 0:00:00"):
        ConsumerSettings(handler_timeout=timedelta(0))
    assert ConsumerSettings(handler_timeout=None).handler_timeout is None


async def test_a_limit_of_nothing_for_a_handler_is_refused(sqlite_world):
    """UX: at registration."""
    with pytest.raises(ConfigurationError, match="timeout is 0:00:00"):
        sqlite_world.consumer().on(Noted, timeout=timedelta(0))


async def test_handlers_that_cannot_begin_are_told(sqlite_world):
    """P7, H143, H203: since when, and for what they wait: health is judged by it."""
    consumer = sqlite_world.consumer()
    assert consumer.held_up_since() == float("inf")
    stopping = asyncio.Event()
    stopping.set()
    outages: Outages = consumer._consuming.processing.plain_outages
    outages.stopping = stopping
    before = sqlite_world.database.clock.monotonic()
    with pytest.raises(Stopped):
        await outages.pause(ConnectionError("away"))
    assert before <= consumer.held_up_since() <= sqlite_world.database.clock.monotonic()
    assert consumer.attention() == ["app: def handlers waits: ConnectionError"]
    outages.fine()
    assert (consumer.held_up_since(), consumer.attention()) == (float("inf"), [])


async def test_a_consumer_that_is_cut_off_while_handlers_run_counts_as_dead(world):
    """P7, H201: a SystemExit in a task of a handler ends the loop, so the next process has to count the attempt."""
    consumer, begun = world.consumer(lease_ttl=timedelta(milliseconds=100)), asyncio.Event()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        begun.set()
        await asyncio.Event().wait()

    world.put(Noted(book="a", number=1))
    task = asyncio.create_task(consumer.run())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    other = world.consumer()
    other.on(Noted)(noted)
    async with running(other):
        await eventually(lambda: other._consuming._suspicion._dead == 1)
