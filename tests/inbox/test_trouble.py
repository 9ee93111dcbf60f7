"""Databases that give up, go away or are busy; handlers that block, are cancelled or ask for too much."""

import asyncio
import threading
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import registry

from inbox.support import Echoed, Noted, effects, eventually, note, prepared, quick, running
from txpatterns.coordination.leases import Leases
from txpatterns.database import Database
from txpatterns.errors import BrokerUnavailable, HandlerDefinitionError
from txpatterns.inbox import BatchTransaction, SyncTransaction, Transaction, consuming

SERIALIZATION_FAILURE = sa.text("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")


@pytest.mark.parametrize("times", [3, 5])
async def test_conflicts_are_repeated_at_once_and_use_up_no_attempt(postgres_world, times):
    """P2, H45: a serialisation failure, at a statement of the handler, is not the message's fault."""
    world, failures = postgres_world, iter(range(times))
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if next(failures, None) is not None:
            await tx.session.execute(SERIALIZATION_FAILURE)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    assert (world.told.counts["failed"], await world.dead()) == (0, [])


class Written:
    """A row of effects as an object, which a flush writes."""


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_link_lost_in_a_flush_is_no_commit_of_the_handlers(database, driver):
    """P2, H440: the session rolls back by itself, and another process has handled the message meanwhile."""
    mapping = registry()
    mapping.map_imperatively(Written, effects)
    async with Database(database.url(driver)) as ours, Database(database.url(driver)) as others:
        world = await prepared(ours)
        consumer, runs = world.consumer(policies=quick(1)), Counter()
        claims = sa.table("txp_inbox", schema="public")

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            runs[event.number] += 1
            claimed = (await tx.session.execute(sa.select(sa.text("*")).select_from(claims))).mappings().one()
            backend = (await tx.session.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()
            async with others.session() as session, session.begin():
                await session.execute(sa.text(f"SELECT pg_terminate_backend({backend}, 60000)"))
                columns, values = ", ".join(claimed), ", ".join(f":{name}" for name in claimed)
                copy = sa.text(f"INSERT INTO txp_inbox ({columns}) VALUES ({values})")
                await session.execute(copy, dict(claimed))
                await session.execute(note(event.book, 100 + event.number))
            written = Written()
            written.consumer, written.key, written.number = "noted", event.book, event.number
            tx.session.add(written)
            await tx.session.flush()

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        assert (await world.effects(), await world.dead()) == ([("a", 101)], [])
        assert (runs, world.told.counts["failed"]) == ({1: 1}, 0)
    mapping.dispose()


async def test_conflicts_at_the_claim_and_at_the_commit_use_up_no_attempt(postgres_world):
    """P2, H45: forced at the first and at the last statement of the transaction."""
    world = postgres_world
    consumer = world.consumer(policies=quick(1))
    runs, fail_at = Counter(), iter(["INSERT INTO public.txp_inbox ", "COMMIT"])
    at = next(fail_at)
    engine = world.database.engine.sync_engine

    def conflict(connection):
        connection.exec_driver_sql(str(SERIALIZATION_FAILURE))

    @sa.event.listens_for(engine, "before_cursor_execute")
    def before(connection, _cursor, statement, *_rest):
        nonlocal at
        if at and statement.startswith(at):
            at = next(fail_at)
            conflict(connection)

    @sa.event.listens_for(engine, "commit")
    def commit(connection):
        nonlocal at
        if at == "COMMIT":
            at = None
            conflict(connection)

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs["handler"] += 1
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert (runs["handler"], await world.effects(), world.told.counts["failed"]) == (2, [("a", 1)], 0)
    assert at is None


async def test_an_outage_of_the_database_is_waited_out(own_postgres, postgres_world, caplog):
    """P2, P7, H35, H101: killed under load and started again: every effect once, no attempt used, few log lines."""
    world = postgres_world
    consumer = world.consumer(policies=quick(1), lease_ttl=timedelta(seconds=3))
    reached = asyncio.Event()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if event.number == 20:
            reached.set()

    world.put(*[Noted(book=str(number % 5), number=number) for number in range(100)])
    async with running(consumer):
        await reached.wait()
        await asyncio.to_thread(own_postgres.kill)
        await eventually(lambda: " pauses: " in caplog.text)
        await asyncio.to_thread(own_postgres.start)
        await world.broker.all_acked()
    found = Counter(number for _, number in await world.effects())
    assert found == Counter(range(100))
    assert (world.told.counts["failed"], await world.dead()) == (0, [])
    assert len([record for record in caplog.records if record.name == "txpatterns"]) <= 20


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_a_handler_that_ends_its_connection_each_time_has_failed(world, kind):
    """P7, H318: the database can be reached, so it is no outage, as which it would be tried for ever; others go on."""
    consumer, runs = world.consumer(policies=quick(2)), Counter()

    async def effects(session, events):
        for event in events:
            runs[event.number] += 1
            await session.execute(note(event.book, event.number))
        if any(event.number == 1 for event in events):
            raw = await (await session.connection()).get_raw_connection()
            await raw.driver_connection.close()
            await session.execute(sa.text("SELECT 1"))

    if kind == "single":

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await effects(tx.session, [event])
    else:

        @consumer.on(Noted, batch=10)
        async def noted_together(events: list[Noted], tx: BatchTransaction) -> None:
            await effects(tx.session, events)

    world.put(*[Noted(book=str(number % 2), number=number) for number in range(4)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.settled(consumer)
    assert sorted(number for _, number in await world.effects()) == [0, 2, 3]
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts) == ("exhausted", 2)
    if kind == "single":
        assert runs == {0: 1, 1: 2 * 6, 2: 1, 3: 1}


async def test_a_blocking_handler_stalls_neither_loop_nor_lease(any_database):
    """H144: a `def` handler that blocks for longer than the lease runs in a thread; the lease goes on."""
    async with Database(any_database) as database:
        world = await prepared(database)
        consumer = world.consumer(lease_ttl=timedelta(milliseconds=900))
        go, begun = threading.Event(), threading.Event()

        @consumer.on(Noted)
        def noted(event: Noted, tx: SyncTransaction) -> None:
            begun.set()
            assert go.wait(30)
            tx.session.execute(note(event.book, event.number))
            tx.emit(Echoed(book=event.book, number=event.number))

        renewals = Counter()
        renew = Leases.renew

        async def counted(leases):
            census = await renew(leases)
            renewals["done"] += 1
            return census

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Leases, "renew", counted)
            world.put(Noted(book="a", number=1))
            async with running(consumer):
                await eventually(begun.is_set)
                before = renewals["done"]
                if not database.is_sqlite:  # there the one writer is the handler
                    await eventually(lambda: renewals["done"] >= before + 4)
                ticks = 0
                while ticks < 100:
                    await asyncio.sleep(0)
                    ticks += 1
                go.set()
                await world.broker.all_acked()
        assert await world.effects() == [("a", 1)]
        assert len(await world.inbox()) == 1


async def test_a_pool_of_one_connection_is_enough(database):
    """H101, H145: handlers wait for it in turn; retries, leases and the rest use connections of their own."""
    engine = create_async_engine(database.url("asyncpg"), pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(3))
        failures = Counter(dict.fromkeys(range(0, 30, 3), 1))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.execute(note(event.book, event.number))
            failures[event.number] -= 1
            if failures[event.number] == 0:
                raise ValueError("once")

        world.put(*[Noted(book=str(number % 10), number=number) for number in range(30)])
        async with running(consumer):
            await world.broker.all_acked()
            await world.told.until(lambda counts: counts["handled"] == 30)
        assert sorted(number for _, number in await world.effects()) == list(range(30))
        assert await world.dead() == []
    await engine.dispose()


async def test_waiting_for_a_connection_uses_up_no_attempt(database):
    """P2, H101: while the application holds all connections, messages wait and are not marked as failed."""
    engine = create_async_engine(database.url("asyncpg"), pool_size=1, max_overflow=0, pool_timeout=0.1)
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(1))
        pauses = Counter()
        pause = consumer._consuming.processing.outages.pause

        async def counted(error):
            pauses[type(error).__name__] += 1
            await pause(error)

        consumer._consuming.processing.outages.pause = counted

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.execute(note(event.book, event.number))

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            async with engine.connect():
                await eventually(lambda: pauses["TimeoutError"] >= 2)
            await world.broker.all_acked()
        assert await world.effects() == [("a", 1)]
        assert (world.told.counts["failed"], await world.dead()) == (0, [])
    await engine.dispose()


async def test_a_handler_cancelled_from_inside_has_failed(world):
    """P7, H142: a cancelled task that it awaited is its own error, and the lane goes on."""
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if event.number == 1:
            inner = asyncio.ensure_future(asyncio.sleep(3600))
            inner.cancel()
            await inner

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 2)]
    assert len(await world.dead()) == 1


async def test_a_graceful_stop_lets_the_running_handler_finish_and_leaves_the_rest(world):
    """P2, P7: what runs is committed and acknowledged; what waits in memory comes again elsewhere."""
    consumer = world.consumer()
    begun, go = asyncio.Event(), asyncio.Event()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        begun.set()
        await go.wait()
        await tx.session.execute(note(event.book, event.number))

    world.put(*[Noted(book="a", number=number) for number in (1, 2, 3)])
    task = asyncio.create_task(consumer.run())
    await begun.wait()
    consumer.stop()
    go.set()
    await task
    assert await world.effects() == [("a", 1)]
    assert (len(world.broker.acked), len(world.broker.open)) == (1, 2)
    async with running(consumer):
        world.broker.put(*[delivery.message for delivery in list(world.broker.open)])
        await world.told.until(lambda counts: counts["handled"] == 3)


async def test_what_is_claimed_while_the_consumer_stops_is_attempted(world, monkeypatch):
    """P7, H320: its attempt is counted already, so a stop that left it out would use it up for nothing."""
    consumer, runs = world.consumer(policies=quick(2)), []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs.append(event.number)
        if len(runs) == 1:
            raise ValueError
        await tx.session.execute(note(event.book, event.number))

    attempts = consumer._consuming.processing.attempts
    claim, loop = attempts.claim, asyncio.get_running_loop()

    def claim_and_stop(*given, **named):
        claimed, dead = claim(*given, **named)
        if claimed:
            loop.call_soon_threadsafe(consumer.stop)
        return claimed, dead

    monkeypatch.setattr(attempts, "claim", claim_and_stop)
    world.put(Noted(book="a", number=1))
    async with asyncio.timeout(60):
        await consumer.run()
    assert runs == [1, 1]
    assert (await world.effects(), await world.waiting(), await world.dead()) == ([("a", 1)], [], [])


async def test_a_stop_does_not_wait_for_room(sqlite_world):
    """P7, H37: with more messages than it may hold, and a handler that does not end, it returns after `stop_within`."""
    world = sqlite_world
    consumer = world.consumer(max_in_flight=2, stop_within=timedelta(milliseconds=50))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await asyncio.Event().wait()

    world.put(*[Noted(book="a", number=number) for number in range(5)])
    async with running(consumer):
        await eventually(lambda: consumer.in_flight == 2)
    assert (await world.effects(), world.broker.acked) == ([], [])


async def test_a_subscription_that_opens_and_then_fails_is_one_outage(sqlite_world, caplog):
    """P7, H35: told once when it begins and once when the first messages have come, with growing pauses between."""
    world = sqlite_world
    consumer, subscriptions = world.consumer(), Counter()
    give = world.broker._give

    async def refused():
        subscriptions["all"] += 1
        if subscriptions["all"] <= 5:
            raise BrokerUnavailable("the group is not allowed")
        async for batch in give():
            yield batch

    world.broker._give = refused

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    told = [record.getMessage() for record in caplog.records if "intake" in record.getMessage()]
    assert [line.partition(": BrokerUnavailable")[0] for line in told] == ["app: intake pauses", "app: intake goes on"]


async def test_a_subscription_that_lasts_is_one_that_works(sqlite_world, caplog, monkeypatch):
    """P7, H35: the end of an outage is told although no message comes that would show it."""
    monkeypatch.setattr(consuming, "_LASTING", timedelta(0))
    consumer, subscriptions = sqlite_world.consumer(), Counter()
    give = sqlite_world.broker._give

    async def refused_once():
        subscriptions["all"] += 1
        if subscriptions["all"] == 1:
            raise BrokerUnavailable("the group is not allowed")
        async for batch in give():
            yield batch

    sqlite_world.broker._give = refused_once

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        raise AssertionError("never")

    async with running(consumer):
        await eventually(lambda: "intake pauses" in caplog.text and "intake goes on" in caplog.text)


async def test_a_blocking_engine_runs_plain_handlers_and_refuses_coroutines(sync_database):
    """H144: a coroutine would block on it, and is refused where it is registered."""
    async with Database(sa.create_engine(sync_database)) as database:
        world = await prepared(database)
        consumer = world.consumer(policies=quick(2))

        async def coroutine(event: Noted, tx: Transaction) -> None:
            raise AssertionError("never")

        with pytest.raises(HandlerDefinitionError, match=r"an Engine, or by a URL, that blocks.*sqlite\+aiosqlite"):
            consumer.on(Noted)(coroutine)
        assert consumer.handlers.topics == []

        @consumer.on(Noted)
        def noted(event: Noted, tx: SyncTransaction) -> None:
            tx.session.execute(note(event.book, event.number))
            tx.emit(Echoed(book=event.book, number=event.number))

        message = world.message(Noted(book="a", number=1))
        world.broker.put(message, message)
        async with running(consumer):
            await world.broker.all_acked()
        assert await world.effects() == [("a", 1)]
        database.engine.dispose()
