"""Messages added to sessions and connections with each driver: written if, and only if, the transaction commits."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outbox.support import (
    WAITING,
    Keyless,
    Order,
    Placed,
    ids,
    open_database,
    open_sync,
    orders,
    rows,
    session_of,
    sync_ids,
    sync_orders,
)
from txpatterns.database.deferred.units import commit_of
from txpatterns.database.engines import sync_side
from txpatterns.errors import AddRefused, NotTransactional, SchemaError, WrongDatabase
from txpatterns.messages import new_id
from txpatterns.outbox import Outbox


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as database:
        yield database


@pytest.fixture
def outbox(store):
    return Outbox(store)


async def idle_in_transaction(database):
    if database.is_sqlite:
        return 0
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state LIKE 'idle in transaction%'"
    )
    return await database.read(lambda connection: connection.execute(query).scalar_one())


async def test_commit_writes_all_in_the_order_of_adding(store, outbox):
    """P1, H1: a committed transaction has its messages, in the order in which they were added."""
    async with session_of(store) as session, session.begin():
        session.add(Order(id="o"))
        added = [outbox.add(session, Placed(order_id="o", n=n)) for n in range(5)]
    assert await ids(store) == added
    assert await orders(store) == {"o"}


@pytest.mark.parametrize("business", [True, False], ids=["with rows", "emit only"])
async def test_rollback_writes_nothing(store, outbox, business):
    """P1, H4: nothing of a transaction that was rolled back is there, though the driver begins late (asyncpg)."""
    async with session_of(store) as session:
        await session.begin()
        if business:
            session.add(Order(id="o"))
            await session.flush()
        outbox.add(session, Placed(order_id="o"))
        await session.rollback()
        outbox.add(session, Placed(order_id="kept"))
        await session.commit()
    assert [row.key for row in await rows(store)] == ["kept"]
    assert await orders(store) == set()


async def test_emit_only_is_undone_when_the_commit_fails_behind_the_write(store, outbox):
    """P1, H4: a bare write in an emit-only transaction must not commit by itself: a later listener refuses."""

    async with session_of(store) as session, session.begin():
        first = outbox.add(session, Placed(order_id="o"))  # from now on nothing but the write is sent at a commit

    def refuse(connection):
        raise RuntimeError("another listener refuses the commit")

    event.listen(sync_side(store.engine), "commit", refuse)
    async with session_of(store) as session:
        outbox.add(session, Placed(order_id="o"))
        outbox.add(session, Placed(order_id="o"))
        with pytest.raises(RuntimeError):
            await session.commit()
        await session.rollback()
    assert await ids(store) == [first]


async def test_a_core_connection_is_served_alike(store, outbox):
    """P1: the same for connections without a session."""
    async with store.engine.connect() as connection:
        async with connection.begin():
            kept = outbox.add(connection, Placed(order_id="a"))
            await connection.execute(sa.insert(Order).values(id="a", n=0))
        async with connection.begin() as transaction:
            outbox.add(connection, Placed(order_id="b"))
            await transaction.rollback()
    assert await ids(store) == [kept]


async def test_a_core_connection_takes_scheduled_messages_back(store, outbox):
    """P1, H99: cancelling on a connection happens with its transaction, before the message is written and after."""
    hour = timedelta(hours=1)
    async with store.engine.begin() as connection:
        kept, early = (outbox.add(connection, Placed(order_id="a"), deliver_after=hour) for _ in range(2))
        assert [message.id for message in outbox.pending(connection)] == [kept, early]
        assert await outbox.acancel(connection, early)
        assert [message.id for message in outbox.pending(connection)] == [kept]
    async with store.engine.connect() as connection, connection.begin() as transaction:
        assert await outbox.acancel(connection, kept)
        await transaction.rollback()
    assert [row.message_id for row in await rows(store, WAITING)] == [kept]
    async with store.engine.begin() as connection:
        assert await outbox.acancel(connection, kept)
        assert not await outbox.acancel(connection, early)
    assert await rows(store, WAITING) == []


async def test_a_connection_without_transaction_is_refused(store, outbox):
    """H4: nobody would commit what is added or cancelled there."""
    async with store.engine.connect() as connection:
        with pytest.raises(NotTransactional):
            outbox.add(connection, Placed(order_id="a"))
        with pytest.raises(NotTransactional):
            await outbox.acancel(connection, "a")


async def test_core_savepoint_without_messages_rolled_back_keeps_those_added_before(store, outbox):
    """P1, H2: rolling back a savepoint in which nothing was added drops nothing."""
    async with store.engine.begin() as connection:
        kept = outbox.add(connection, Placed(order_id="a"))
        savepoint = await connection.begin_nested()
        await connection.execute(sa.insert(Order).values(id="x", n=0))
        await savepoint.rollback()
    assert await ids(store) == [kept]


async def test_core_inner_release_outer_rollback(store, outbox):
    """P1, H2: a message of a released savepoint goes with the savepoint around it, and the others stay."""
    async with store.engine.begin() as connection:
        kept = outbox.add(connection, Placed(order_id="a"))
        outer = await connection.begin_nested()
        inner = await connection.begin_nested()
        outbox.add(connection, Placed(order_id="b"))
        await inner.commit()
        await outer.rollback()
        after = outbox.add(connection, Placed(order_id="c"))
    assert await ids(store) == [kept, after]


async def test_closed_savepoint_takes_its_messages_along(store, outbox):
    """P1, H2: closing a session's savepoint without releasing it rolls it back."""
    async with session_of(store) as session, session.begin():
        savepoint = await session.begin_nested()
        session.add(Order(id="gone"))
        await session.flush()
        outbox.add(session, Placed(order_id="gone"))
        await session.run_sync(lambda _: savepoint.sync_transaction.close())
        outbox.add(session, Placed(order_id="kept"))
    assert [row.key for row in await rows(store)] == ["kept"]
    assert await orders(store) == set()


async def test_failed_savepoint_refuses_more(store, outbox):
    """P1, H2: after an error has rolled a savepoint back, nothing can be added under it and outlive it."""
    async with session_of(store) as session, session.begin():
        session.add(Order(id="o"))
        await session.flush()
        savepoint = await session.begin_nested()
        with pytest.raises(sa.exc.IntegrityError):
            await session.execute(sa.insert(Order).values(id="o", n=0))
        await savepoint.rollback()
        savepoint = await session.begin_nested()
        session.expunge_all()
        session.add(Order(id="o"))
        with pytest.raises(sa.exc.IntegrityError):
            await session.flush()
        with pytest.raises(AddRefused):
            outbox.add(session, Placed(order_id="lost?"))
        await savepoint.rollback()
        kept = outbox.add(session, Placed(order_id="o"))
    assert await ids(store) == [kept]


@pytest.mark.parametrize("emit_only", [True, False])
async def test_root_commit_with_an_open_savepoint(store, outbox, emit_only):
    """P1, H2: committing the root releases what is open; nothing added there is forgotten."""
    async with session_of(store) as session, session.begin() as root:
        await session.begin_nested()
        if not emit_only:
            session.add(Order(id="o"))
        kept = outbox.add(session, Placed(order_id="o"))
        await root.commit()
    assert await ids(store) == [kept]


async def test_commit_that_was_refused_leaves_nothing_in_the_driver(store, outbox):
    """P1, H6: on a connection that is used again, the next commit commits only its own rows."""
    refused = Outbox(store)
    refused.identity.check = _refuse
    async with store.engine.connect() as connection:
        transaction = await connection.begin()
        await connection.execute(sa.insert(Order).values(id="half", n=0))
        refused.add(connection, Placed(order_id="half"))
        with pytest.raises(WrongDatabase):
            await transaction.commit()
        await transaction.rollback()
        async with connection.begin():
            await connection.execute(sa.insert(Order).values(id="whole", n=0))
            kept = outbox.add(connection, Placed(order_id="whole"))
    assert await orders(store) == {"whole"}
    assert await ids(store) == [kept]
    assert await idle_in_transaction(store) == 0


def _refuse(connection):
    raise WrongDatabase


async def test_driver_error_is_told_in_sqlalchemys_words(store, outbox):
    """H101: callers' retry rules see an IntegrityError, whichever way the row was written; nothing is committed."""
    twice = new_id()
    async with session_of(store) as session, session.begin():
        outbox.add(session, Placed(order_id="o"), message_id=twice)
    for many in (1, 2):
        async with session_of(store) as session:
            session.add(Order(id=f"o{many}"))
            await session.flush()
            for _ in range(many):
                outbox.add(session, Placed(order_id="o"), message_id=twice)
            with pytest.raises(sa.exc.IntegrityError):
                await session.commit()
            await session.rollback()
            session.add(Order(id=f"after{many}"))
            await session.commit()
    assert await orders(store) == {"after1", "after2"}
    assert await ids(store) == [twice]
    assert await idle_in_transaction(store) == 0


@pytest.mark.parametrize("way", ["engine", "connection", "session"])
async def test_autocommit_is_refused(any_database, way):
    """H4: where each statement commits by itself, nothing is written and the caller is told."""
    async with open_database(any_database) as database:
        options = {"isolation_level": "AUTOCOMMIT"}
        engine = create_async_engine(any_database, **(options if way == "engine" else {}))
        outbox = Outbox(database)
        try:
            if way == "connection":
                async with engine.connect() as connection:
                    await connection.execution_options(**options)
                    with pytest.raises(NotTransactional):
                        async with connection.begin():
                            outbox.add(connection, Placed(order_id="o"))
            else:
                async with AsyncSession(engine) as session:
                    if way == "session":
                        await session.connection(execution_options=options)
                    outbox.add(session, Placed(order_id="o"))
                    outbox.add(session, Keyless())
                    with pytest.raises(NotTransactional):
                        await session.commit()
        finally:
            await engine.dispose()
        assert await ids(database) == []


async def test_listeners_of_the_flush_may_add(store, outbox):
    """P1: a message that a flush listener adds during the commit is written by that commit."""

    def tell(session, _context=None, _instances=None):
        for order in session.new:
            outbox.add(session, Placed(order_id=order.id))

    for moment in ("before_flush", "after_flush"):
        async with session_of(store) as session:
            event.listen(session.sync_session, moment, tell)
            session.add(Order(id=moment))
            await session.commit()
    assert [row.key for row in await rows(store)] == ["before_flush", "after_flush"]


async def test_a_listener_of_the_commit_may_add_where_nothing_else_is_written(store, outbox):
    """P1: the first of a transaction, added while its commit runs, has no connection yet, and is written."""
    for moment in ("a", "b"):
        async with session_of(store) as session:

            @event.listens_for(session.sync_session, "before_commit")
            def tell(of, key=moment):
                outbox.add(of, Placed(order_id=key))

            await session.begin()
            if moment == "b":
                await session.begin_nested()
            await session.commit()
    assert {row.key for row in await rows(store)} == {"a", "b"}


async def test_a_session_without_autobegin_is_not_begun_for_a_message(store, outbox):
    """H4: who begins each transaction explicitly has forgotten it here, and nobody would commit."""
    async with session_of(store, autobegin=False) as session:
        with pytest.raises(NotTransactional, match="has not begun"):
            outbox.add(session, Placed(order_id="lost"))
        async with session.begin():
            outbox.add(session, Placed(order_id="kept"))
    assert [row.key for row in await rows(store)] == ["kept"]


async def test_several_outboxes_in_one_transaction(store, outbox):
    """P1: each outbox of a transaction writes its own messages."""
    other = Outbox(store)
    async with session_of(store) as session, session.begin():
        first, second = outbox.add(session, Placed(order_id="a")), other.add(session, Placed(order_id="b"))
        third = outbox.add(session, Placed(order_id="c"))
    assert set(await ids(store)) == {first, second, third}


async def test_on_commit_is_called_once_and_only_after_a_commit(store):
    """H1, H10: the wake-up comes when the rows can be seen, and never for what was rolled back."""
    seen = []
    outbox = Outbox(store, on_commit=lambda: seen.append(True))
    async with session_of(store) as session:
        outbox.add(session, Placed(order_id="a"))
        outbox.add(session, Placed(order_id="b"))
        await session.rollback()
        assert seen == []
        outbox.add(session, Placed(order_id="a"))
        outbox.add(session, Placed(order_id="b"))
        await session.commit()
        assert seen == [True]
        session.add(Order(id="silent"))
        await session.commit()
    assert seen == [True]


async def test_nothing_keeps_sessions_alive(store, outbox):
    """Invariant: a connection that lives long, with many sessions joined to it, does not keep them."""
    async with store.engine.connect() as connection, connection.begin():
        for n in range(5):
            async with AsyncSession(connection) as session:
                outbox.add(session, Placed(order_id=str(n)))
                await session.commit()
        assert connection.sync_connection is not None
        assert [unit for unit in commit_of(connection.sync_connection).units if unit.session is not None] == []
    assert len(await ids(store)) == 5


async def test_other_objects_are_refused(store, outbox):
    """H4: what is no transaction is refused at once, by each method and with the fix."""
    async with session_of(store) as session:
        for wrong in (object(), None, store.engine.connect()):
            with pytest.raises(AddRefused):
                outbox.add(wrong, Placed(order_id="a"))
            with pytest.raises(AddRefused):
                outbox.pending(wrong)
            with pytest.raises(AddRefused):
                outbox.cancel(wrong, "a")
            with pytest.raises(AddRefused):
                await outbox.acancel(wrong, "a")
        with pytest.raises(AddRefused) as refused:
            outbox.cancel(session, "a")
        assert "acancel" in refused.value.remedy
        with pytest.raises(AddRefused):
            await outbox.acancel(session.sync_session, "a")


@pytest.mark.parametrize("wrong", [None, object(), {"order_id": "a"}, Placed], ids=["None", "object", "dict", "class"])
async def test_what_is_no_event_is_refused(store, outbox, wrong):
    """P1: the error says what to give instead, and the transaction goes on."""
    async with session_of(store) as session, session.begin():
        with pytest.raises(AddRefused) as refused:
            outbox.add(session, wrong)
        assert "Event" in refused.value.remedy
        kept = outbox.add(session, Placed(order_id="a"))
    assert await ids(store) == [kept]


async def test_scheduled_messages_are_one_statement(store, outbox):
    """P1, H99: however many a transaction schedules, and each keeps its own delay."""
    said = []
    event.listen(sync_side(store.engine), "before_cursor_execute", lambda *given: said.append(given[2]))
    async with session_of(store) as session, session.begin():
        delays = {outbox.add(session, Placed(order_id="a"), deliver_after=timedelta(hours=n)): n for n in range(1, 6)}
    assert len([text for text in said if "INSERT" in text]) == 1
    due = {row.message_id: row.due_at for row in await rows(store, WAITING)}
    assert sorted(due, key=due.__getitem__) == sorted(delays, key=delays.__getitem__)
    hours = {message_id: (due[message_id] - min(due.values())) / timedelta(hours=1) for message_id in due}
    assert {message_id: round(passed) + 1 for message_id, passed in hours.items()} == delays


async def test_another_database_is_refused(store, outbox, tmp_path):
    """H3: the transaction of another database cannot carry our messages, not even when it comes first."""
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}") as other:
        async with session_of(other) as session:
            session.add(Order(id="o"))
            outbox.add(session, Placed(order_id="o"))
            with pytest.raises(WrongDatabase):
                await session.commit()
        assert await ids(other) == []
        assert await orders(other) == set()
    async with session_of(store) as session, session.begin():
        kept = outbox.add(session, Placed(order_id="o"))
    assert await ids(store) == [kept]


async def test_a_database_without_our_tables_is_refused(store, outbox, tmp_path):
    """H3: the error says what is missing; the business rows are not committed either."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'bare.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Order.__table__.create)
    async with AsyncSession(engine) as session:
        session.add(Order(id="o"))
        outbox.add(session, Placed(order_id="o"))
        with pytest.raises((SchemaError, WrongDatabase)):
            await session.commit()
        await session.rollback()
        assert (await session.execute(sa.select(Order))).first() is None
    await engine.dispose()


async def test_a_second_engine_to_the_same_database_is_accepted(store, outbox, any_database):
    """H3: the uid row decides, not the engine or the URL."""
    engine = create_async_engine(any_database)
    async with AsyncSession(engine) as session:
        kept = outbox.add(session, Placed(order_id="o"))
        await session.commit()
    await engine.dispose()
    assert await ids(store) == [kept]


async def test_two_engines_in_one_session_are_refused(store, outbox, any_database):
    """H3: two commits one after the other cannot be atomic; neither happens."""
    second = create_async_engine(any_database)
    async with AsyncSession(store.engine) as session:
        await session.execute(sa.insert(Order).values(id="one", n=0))
        if store.is_sqlite:
            await session.execute(sa.select(Order), bind_arguments={"bind": sync_side(second)})
        else:
            await session.execute(sa.insert(Order).values(id="two", n=0), bind_arguments={"bind": sync_side(second)})
        outbox.add(session, Placed(order_id="o"))
        with pytest.raises(WrongDatabase):
            await session.commit()
    await second.dispose()
    assert await orders(store) == set()
    assert await ids(store) == []


async def test_cancelled_anywhere_in_the_commit(store, outbox):
    """H6: cancelled at each await of the commit path, the pool is clean and message and row agree."""
    async with session_of(store) as session, session.begin():
        outbox.add(session, Keyless())  # from now on the commit path only writes
    done, at = False, 0
    while not done:
        key = f"k{at}"
        async with session_of(store) as session:
            session.add(Order(id=key))
            outbox.add(session, Placed(order_id=key))
            outbox.add(session, Placed(order_id=key, n=1))
            done = await _cancelled_at(session.commit(), at)
        at += 1
        assert at < 200
    for n in range(6):  # the pool's connections are used again
        async with session_of(store) as session, session.begin():
            outbox.add(session, Placed(order_id=f"after{n}"))
    found = [row for row in await rows(store) if row.key]
    there = await orders(store)
    assert at > 3
    assert await idle_in_transaction(store) == 0
    for n in range(at):
        assert sum(row.key == f"k{n}" for row in found) == (2 if f"k{n}" in there else 0)
    assert sum(row.key.startswith("after") for row in found) == 6


class CancelAt:
    """Awaits something, and cancels the task at the given one of its suspensions."""

    def __init__(self, work, at):
        self.steps, self.at = work.__await__(), at

    def __await__(self):
        number, thrown = 0, None
        while True:
            try:
                awaited = next(self.steps) if thrown is None else self.steps.throw(thrown)
            except StopIteration as end:
                return end.value
            if number == self.at:
                asyncio.current_task().cancel()
            number, thrown = number + 1, None
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - what is thrown in here is handed on
                thrown = error


async def _cancelled_at(work, at):
    """Run it, cancelled at one of its suspensions; says whether it ended before there were so many."""

    async def run():
        return await wrapped

    wrapped = CancelAt(work, at)
    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        return False
    return True


def test_a_plain_session_serves_alike(sync_database):
    """P1, H2: plain drivers, savepoints included."""
    with open_sync(sync_database) as (engine, outbox):
        with Session(engine) as session, session.begin():
            session.add(Order(id="a"))
            kept = [outbox.add(session, Placed(order_id="a"))]
            with session.begin_nested():
                session.add(Order(id="b"))
                kept.append(outbox.add(session, Placed(order_id="b")))
            with session.begin_nested() as savepoint:
                session.add(Order(id="c"))
                outbox.add(session, Placed(order_id="c"))
                savepoint.rollback()
        with Session(engine) as session:
            session.add(Order(id="d"))
            outbox.add(session, Placed(order_id="d"))
            session.rollback()
        assert sync_ids(engine) == kept
        assert sync_orders(engine) == {"a", "b"}


@pytest.mark.parametrize("delay", [timedelta.max, timedelta(days=40_000), timedelta(microseconds=-1)])
async def test_a_delay_beyond_every_calendar_is_refused(store, outbox, delay):
    """P1: SQLite would make no moment of it, at which it could be sent."""
    async with session_of(store) as session:
        with pytest.raises(AddRefused, match="hundred years"):
            outbox.add(session, Placed(order_id="a"), deliver_after=delay)
