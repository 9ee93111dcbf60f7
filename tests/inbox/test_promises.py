"""What goes wrong in inboxes elsewhere: swallowed errors, shared ids, effects outside, locks before the insert."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from inbox.support import LONG, Noted, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.inbox import Inbox, State, SyncTransaction, Transaction
from txpatterns.inbox.attempts import Plan
from txpatterns.inbox.entries import entry_of
from txpatterns.inbox.lane_store import First
from txpatterns.outbox.schema import outbox_table
from txpatterns.retries import OnFailure

LOCK_TIMEOUT = sa.text("DO $$ BEGIN RAISE EXCEPTION 'canceling statement' USING ERRCODE = '55P03'; END $$")


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_an_error_that_the_handler_swallows_is_not_taken_for_success(postgres_world, kind):
    """P2, H46: PostgreSQL answers a COMMIT after an error with a rollback and no error; the message is not lost."""
    world, runs = postgres_world, []
    consumer = world.consumer(policies=quick(3))

    def swallow(session: sa.orm.Session, event: Noted) -> None:
        runs.append(event.number)
        session.execute(note(event.book, event.number))
        if len(runs) == 1:
            with pytest.raises(DBAPIError):
                session.execute(LOCK_TIMEOUT)

    if kind == "async":

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            await tx.session.run_sync(swallow, event)

    else:

        @consumer.on(Noted)
        def noted_plain(event: Noted, tx: SyncTransaction) -> None:
            swallow(tx.session, event)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    assert await world.effects() == ([("a", 1)])
    assert len(runs) == 2


async def test_an_error_behind_a_savepoint_may_be_swallowed(postgres_world):
    """H46: what a savepoint took back harms nothing."""
    world, runs = postgres_world, []
    consumer = world.consumer(policies=quick(3))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs.append(event.number)
        await tx.session.execute(note(event.book, event.number))
        with pytest.raises(DBAPIError):
            async with tx.session.begin_nested():
                await tx.session.execute(LOCK_TIMEOUT)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert (await world.effects(), runs) == ([("a", 1)], [1])


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
async def test_many_claims_of_one_message_at_once_do_not_block_each_other_for_good(database, level):
    """P2, H47, H96: 32 at once, at either level: one is the first, and nobody meets a deadlock. At the stricter level
    the others may be told to run again, which is no fault of theirs."""
    engine = create_async_engine(database.url("asyncpg"), pool_size=32, isolation_level=level)
    async with Database(engine) as ours:
        await prepared(ours)
        inbox = Inbox(ours)

        async def claim() -> bool | str:
            async with AsyncSession(engine) as session:
                try:
                    first = await inbox.aclaim(session, "app.noted", "message-1")
                    await session.commit()
                except DBAPIError as error:
                    return str(error.orig.sqlstate)
                return first

        answers = await asyncio.gather(*(claim() for _ in range(32)))
        assert answers.count(True) == 1
        assert set(answers) <= {True, False, "40001"}
        assert level == "REPEATABLE READ" or "40001" not in answers
    await engine.dispose()


async def test_nothing_is_looked_for_before_the_insert(postgres_world):
    """H47: the first statement of a handler's transaction is the claim, and it locks nothing that is not there."""
    world, said = postgres_world, []
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    @sa.event.listens_for(world.database.engine.sync_engine, "before_cursor_execute")
    def before(_connection, _cursor, statement, *_rest):
        said.append(statement)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    names = [statement.split(" (")[0].replace("public.", "") for statement in said]
    assert names == ["INSERT INTO txp_inbox", "INSERT INTO effect"]
    assert "FOR UPDATE" not in said[0]


async def test_our_own_transactions_do_not_take_over_a_stricter_default(database):
    """H96: a server whose transactions are REPEATABLE READ by default tells ours of no new conflicts."""
    engine = create_async_engine(database.url("asyncpg"))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        name = (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
        await connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation TO 'repeatable read'"
        )
    await engine.dispose()

    def level(connection: sa.Connection) -> str:
        return str(connection.exec_driver_sql("SHOW transaction_isolation").scalar_one())

    async with Database(engine) as ours:
        async with engine.connect() as connection:
            assert await connection.run_sync(level) == "repeatable read"
        assert await ours.transact(level) == "read committed"
    await engine.dispose()


async def test_one_id_at_two_consumers_has_two_effects(world):
    """P2, H50: whose effect it is belongs to the key."""
    for group in ("app", "other"):
        consumer = world.consumer(group)

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction, group: str = group) -> None:
            await tx.session.execute(note(event.book, event.number, group))

        message = world.message(Noted(book="a", number=1), "one-id")
        world.broker.put(message, message)
        async with running(consumer):
            await world.broker.all_acked()
    assert sorted((row.consumer, row.message_id) for row in await world.inbox()) == [
        ("app.noted", "one-id"),
        ("other.noted", "one-id"),
    ]
    assert await world.effects() == [("a", 1), ("a", 1)]


async def test_the_message_id_is_the_key_of_what_happens_outside(world):
    """H52: a handler that charges a card, then fails, calls with the same key when it runs again."""
    consumer, calls = world.consumer(policies=quick(3)), []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        calls.append(tx.message.id)
        await tx.session.execute(note(event.book, event.number))
        if len(calls) < 3:
            raise ConnectionError

    (message,) = world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 1)
    assert calls == [message.id] * 3
    assert await world.effects() == [("a", 1)]


async def test_two_claimers_of_due_messages_take_different_ones(postgres_world):
    """H95: the query that claims locks the rows that it returns and no others."""
    world = postgres_world
    consumer = world.consumer(policies=quick(3))
    processing = consumer._consuming.processing
    for number in range(3):
        entry = entry_of("app.noted", world.message(Noted(book=str(number), number=number)))
        first = First(State.RETRYING, 1, timedelta(0))
        await world.database.transact(partial(processing.lanes.admit, entry=entry, first=first))

    def claim(connection: sa.Connection, most: int) -> list[int]:
        plan = Plan(timedelta(hours=1), OnFailure.HOLD)
        claimed, _ = processing.attempts.claim(connection, ["app.noted"], most, lambda _waiting: plan)
        return [waiting.id for waiting in claimed]

    engine = world.database.engine
    async with asyncio.timeout(LONG), engine.begin() as one, engine.begin() as two:
        first_one = await one.run_sync(claim, 1)
        assert len(first_one) == 1
        others = await two.run_sync(claim, 10)
        assert len(others) == 2
        assert not set(first_one) & set(others)


async def test_positions_that_are_drawn_again_are_other_messages(postgres_world):
    """H97: after a failover that lost commits, positions come again; ids do not, so nothing is taken for a repeat."""
    world, seen = postgres_world, []
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    for number in (1, 2):
        async with AsyncSession(world.database.engine) as session, session.begin():
            world.outbox.add(session, Noted(book="a", number=number))
        (row,) = await world.rows(outbox_table)
        seen.append((row.position, row.message_id))
        world.broker.put(world.message(Noted(book="a", number=number), row.message_id))
        lost = sa.text("TRUNCATE txp_outbox RESTART IDENTITY")
        await world.database.transact(lambda connection, lost=lost: connection.execute(lost))
    assert seen[0][0] == seen[1][0]
    assert seen[0][1] != seen[1][1]
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1), ("a", 2)]
