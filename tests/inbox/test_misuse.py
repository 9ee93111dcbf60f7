"""Engines and handlers that would break the one transaction of an effect and its record."""

from collections import Counter
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from inbox.support import Noted, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.errors import NotTransactional
from txpatterns.inbox import SyncTransaction, Transaction

AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}


@pytest.mark.parametrize("way", ["engine", "options"])
async def test_a_consumer_on_autocommit_is_refused_at_the_start(any_database, way):
    """P2, H4: the record would be kept although the effect failed, and the message be taken for handled."""
    engine = create_async_engine(any_database, **(AUTOCOMMIT if way == "engine" else {}))
    async with Database(engine.execution_options(**AUTOCOMMIT) if way == "options" else engine) as database:
        consumer = (await prepared(database)).consumer()

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            raise AssertionError("never")

        with pytest.raises(NotTransactional):
            consumer.check()
    await engine.dispose()


async def test_a_connection_that_turns_out_to_commit_by_itself_is_a_failed_attempt(database):
    """P2, H4: no effect is lost where only the connection tells: nothing is claimed, and the message is kept."""
    url = database.url("psycopg").replace("postgresql+psycopg:", "postgresql+psycopg_async:")
    engine = create_async_engine(url, connect_args={"autocommit": True})
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(1))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            raise AssertionError("never")

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        (letter,) = await world.dead()
        assert "NotTransactional" in letter.error
        assert await world.inbox() == []
    await engine.dispose()


async def test_a_claim_of_your_own_on_autocommit_is_refused(any_database):
    """P2, H4: a claim that commits alone would be remembered without its effect."""
    async with Database(any_database) as database:
        world = await prepared(database)
        inbox = world.consumer().inbox
        engine = create_async_engine(any_database, **AUTOCOMMIT)
        async with AsyncSession(engine) as session:
            with pytest.raises(NotTransactional):
                await inbox.aclaim(session, "mine", "m1")
        await engine.dispose()
        assert await world.inbox() == []


@pytest.mark.parametrize("raises", [None, ValueError("after the commit")])
@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_handler_that_commits_by_itself_is_told_and_its_message_kept(world, caplog, attempt, raises):
    """P2, H46: what came after its commit is lost, so the message is a dead letter that says so, at any attempt."""
    consumer, runs = world.consumer(policies=quick(7)), Counter()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs[event.number] += 1
        if runs[event.number] < attempt:
            raise ValueError("not yet")
        await tx.session.execute(note(event.book, event.number))
        if event.number == 1:
            await tx.session.commit()
            await tx.session.execute(note(event.book, 1000))
            if raises is not None:
                raise raises

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts) == ("half done", attempt)
    assert "TransactionEnded: [TXP-1402]" in letter.error
    assert raises is None or "after the commit" in letter.error
    assert "did half of its work" in "".join(r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    assert "TXP-1402" in world.told.errors[-1] or "TXP-1402" in world.told.errors[-2]
    assert await world.effects() == [("a", 1), ("a", 2)]


async def test_a_plain_handler_that_commits_by_itself_is_told_too(sync_database):
    """P2, H46: the same on an engine that blocks."""
    async with Database(sa.create_engine(sync_database)) as database:
        world = await prepared(database)
        consumer = world.consumer()

        @consumer.on(Noted)
        def noted(event: Noted, tx: SyncTransaction) -> None:
            tx.session.execute(note(event.book, event.number))
            tx.session.commit()

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        (letter,) = await world.dead()
        assert (letter.reason, await world.effects()) == ("half done", [("a", 1)])
        database.engine.dispose()


@pytest.mark.parametrize("way", ["rollback", "close"])
async def test_a_handler_that_rolls_back_by_itself_has_failed(world, way):
    """P2, H46: nothing of it is kept, so it is tried again as after any error, and the error says what is wrong."""
    consumer, runs = world.consumer(policies=quick(2)), Counter()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs[event.number] += 1
        await tx.session.execute(note(event.book, event.number))
        if runs[event.number] == 1:
            await getattr(tx.session, way)()
            await tx.session.execute(note(event.book, 1000))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    assert "TXP-1402" in world.told.errors[0]
    assert (await world.effects(), await world.dead()) == ([("a", 1)], [])


async def at_the_driver(session, what):
    raw = await (await session.connection()).get_raw_connection()
    if hasattr(raw.driver_connection, what):
        await getattr(raw.driver_connection, what)()
    else:
        await raw.driver_connection.execute(what)


@pytest.mark.parametrize("text", ["COMMIT", " commit and chain", "ROLLBACK", "ABORT", "END TRANSACTION"])
async def test_a_statement_that_ends_the_transaction_is_refused(world, text):
    """P2, H46: what follows it would be in another one; the same for the plain handler, and not for a savepoint."""
    consumer, runs = world.consumer(policies=quick(2)), Counter()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs["async"] += 1
        await tx.session.execute(note(event.book, event.number))
        if runs["async"] == 1:
            await tx.session.execute(sa.text(text))
        await tx.session.execute(note(event.book, 10))

    @consumer.on(Noted)
    def plain(event: Noted, tx: SyncTransaction) -> None:
        runs["plain"] += 1
        tx.session.connection().exec_driver_sql("SAVEPOINT mine")
        tx.session.execute(note(event.book, 100))
        tx.session.connection().exec_driver_sql("ROLLBACK TO SAVEPOINT mine")
        tx.session.execute(note(event.book, 11))
        if runs["plain"] == 1:
            tx.session.connection().exec_driver_sql(text)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 2)
    assert ["TXP-1402" in error for error in world.told.errors] == [True] * 2
    assert sorted(await world.effects()) == [("a", 1), ("a", 10), ("a", 11)]
    assert (await world.dead(), runs) == ([], {"async": 2, "plain": 2})


async def test_a_transaction_that_was_ended_behind_sqlalchemys_back_is_found_out(world):
    """P2, H46: a commit or rollback by the driver's own method: nothing is taken for handled."""
    consumer, runs = world.consumer(policies=quick(2)), Counter()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs[event.number] += 1
        await tx.session.execute(note(event.book, event.number))
        if runs[event.number] == 1:
            await at_the_driver(tx.session, "commit" if event.number == 1 else "rollback")

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts) == ("half done", 1)
    assert all("TXP-1402" in error for error in world.told.errors)
    assert await world.effects() == [("a", 1), ("a", 2)]
    assert runs == {1: 1, 2: 2}


async def test_an_error_that_only_the_driver_knows_undoes_all_the_same(database):
    """P2, H46: a statement that failed on the driver's own connection leaves a transaction that keeps nothing."""
    async with Database(database.url("psycopg").replace("+psycopg:", "+psycopg_async:")) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(1))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.execute(note(event.book, event.number))
            raw = await (await tx.session.connection()).get_raw_connection()
            with suppress(Exception):
                await raw.driver_connection.execute("SELECT no_such_column")

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        (letter,) = await world.dead()
        assert "undid all its work" in letter.error
        assert (await world.effects(), await world.inbox()) == ([], [])


async def test_an_error_that_was_swallowed_is_named(database):
    """P2, H46: the one that undid the work, and not that nothing works after it."""
    async with Database(database.url("asyncpg")) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(1))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            for column in ("no_such_column", "another_column"):
                with suppress(Exception):
                    await tx.session.execute(sa.text(f"SELECT {column}"))

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        (letter,) = await world.dead()
        assert "no_such_column" in letter.error.splitlines()[0]


async def test_a_handler_that_waits_for_its_own_lock_on_sqlite_has_failed(tmp_path):
    """P7, H45, H317: another session of the handler's can never write while the handler's own does, so no repeat."""
    async with Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}") as ours:
        world, runs = await prepared(ours), []
        consumer = world.consumer(policies=quick(2))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            runs.append(event.number)
            async with ours.session() as other, other.begin():
                await other.execute(sa.text("PRAGMA busy_timeout = 0"))
                await other.execute(note(event.book, event.number))

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
            await world.settled(consumer)
        (letter,) = await world.dead()
        assert "database is locked" in letter.error
        assert runs == [1, 1]
