"""The one door to the database: repeats, time, identity, schemas, and a pool that stays clean."""

import asyncio
import gc
import sqlite3
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from database.cancelling import cancelled_at
from outbox.support import (
    ORDERS,
    ROWS,
    OffsetClock,
    Order,
    Placed,
    ids,
    open_database,
    prepare_tables,
    rows,
    session_of,
)
from txpatterns.database import Database, finishing
from txpatterns.database.deferred.units import commit_of
from txpatterns.database.dialects import is_disconnect, is_repeatable, moment
from txpatterns.database.engines import dispose
from txpatterns.database.schema import Instant
from txpatterns.errors import WrongDatabase
from txpatterns.outbox import Outbox, Relay
from txpatterns.testing.clock import ManualClock


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


async def test_the_databases_clock_moves_with_ours(any_database):
    """H19, H99: SQL time is the database's clock plus our offset, in UTC with microseconds or milliseconds."""
    clock = OffsetClock()
    async with open_database(any_database, clock=clock) as store:
        for offset in (timedelta(0), timedelta(days=3, milliseconds=250), timedelta(days=400)):
            clock.offset = offset
            found = await store.read(lambda c: c.execute(sa.select(store.now(timedelta(hours=1)))).scalar_one())
            assert found.tzinfo is not None
            assert abs(found - (datetime.now(UTC) + offset + timedelta(hours=1))) < timedelta(seconds=30)


def _only(connection, statement):
    return connection.execute(statement).scalar_one()


async def test_the_databases_clock_stands_with_one_that_is_moved_by_hand(any_database):
    """H19, H324: what is due now is due in the next statement, however long the one before was on its way."""
    clock = ManualClock()
    async with open_database(any_database, clock=clock) as store:
        for moved in (timedelta(0), timedelta(days=3, milliseconds=250), timedelta(days=36_000)):
            clock.advance(moved)
            built = sa.select(store.now(timedelta(hours=1)))
            prepared = sa.select(sa.type_coerce(moment("at"), Instant)).params(at=store.seconds(timedelta(hours=1)))
            found = [await store.read(partial(_only, statement=each)) for each in (built, prepared, built)]
            assert found[0] == found[1] == found[2]
            assert abs(found[0] - (clock.now() + timedelta(hours=1))) < timedelta(milliseconds=1)


async def test_time_moves_inside_a_transaction(database):
    """H19: a lease that is judged at the end of a long transaction is judged by the time it is then."""
    async with open_database(database.url("asyncpg")) as store:

        def twice(connection):
            first = connection.execute(sa.select(store.now())).scalar_one()
            connection.execute(sa.text("SELECT pg_sleep(0.05)"))
            return connection.execute(sa.select(store.now())).scalar_one() - first

        assert await store.transact(twice) >= timedelta(seconds=0.05)


async def test_deadlocks_are_repeated(database):
    """H8: two transactions of ours that block each other both succeed in the end."""
    async with open_database(database.url("asyncpg")) as store:
        await store.transact(lambda c: c.execute(sa.insert(Order), [{"id": "a", "n": 0}, {"id": "b", "n": 0}]))
        tries = []

        async def cross(first, second):
            def work(connection):
                tries.append(first)
                for key in (first, second):
                    connection.execute(sa.update(Order).where(Order.id == key).values(n=Order.n + 1))
                    if len(tries) < 3:
                        connection.execute(sa.text("SELECT pg_sleep(1)"))  # until the other has locked its first row

            await store.transact(work)

        await asyncio.gather(cross("a", "b"), cross("b", "a"))
        assert {row.n for row in await rows(store, sa.select(Order.__table__))} == {2}
        assert 3 <= len(tries) <= 8  # on a busy machine they may meet again


def test_what_may_be_repeated():
    """H8, H5: conflicts and deadlocks may be repeated; broken links and constraint violations may not."""

    def error(state, invalidated=False):
        original = Exception("x")
        original.sqlstate = state
        return sa.exc.OperationalError("x", None, original, connection_invalidated=invalidated)

    assert [is_repeatable(error(state)) for state in ("40001", "40P01", "55P03", "23505", "08006")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert is_disconnect(error("08006"))
    assert is_disconnect(error("57P01"))
    assert is_disconnect(error("23505", invalidated=True))
    assert not is_disconnect(error("23505"))
    assert is_repeatable(sa.exc.OperationalError("x", None, Exception("database is locked")))
    assert not is_repeatable(ValueError("database is locked"))


async def test_failed_work_is_rolled_back(store):
    """I14: what raised has written nothing, and its connection is free."""

    def work(connection):
        connection.execute(sa.insert(Order).values(id="o", n=0))
        raise LookupError

    for _ in range(5):
        with pytest.raises(LookupError):
            await store.transact(work)
    assert await rows(store, sa.select(Order.__table__)) == []


@pytest.mark.parametrize("again", [False, True], ids=["once", "repeatedly"])
async def test_cancelled_transactions_leave_a_clean_pool(store, again):
    """H6, I14: cancelled at each suspension, its own or that of the task in which it works, a transaction is whole or
    not at all, has ended when the cancellation arrives, and the pool goes on."""
    reached, at = True, 0
    while reached:
        name = f"o{at}"
        insert = partial(_insert, name=name)
        await store.close()  # so that a connection is made each time
        reached = await cancelled_at(lambda insert=insert: store.transact(insert), at, again=again)
        assert store._own.pool.checkedout() == 0
        at += 1
    for n in range(6):
        await store.transact(partial(_insert, name=f"after{n}"))
    if not store.is_sqlite:
        idle = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state LIKE 'idle in transaction%'"
        )
        assert await store.read(lambda c: c.execute(idle).scalar_one()) == 0
    # Nothing is cut off, so what was cancelled is there as well.
    assert {row.id for row in await rows(store, ORDERS)} >= {f"o{n}" for n in range(at)}
    assert at > 3
    gc.collect()  # a connection that nobody closed says so here


async def test_what_hangs_is_cut_off_after_a_while(database, monkeypatch):
    """H6, H35: a cancelled transaction that does not come to its end is broken off, and its connection closed."""
    monkeypatch.setattr(finishing, "_PATIENCE", 0.2)
    async with open_database(database.url("asyncpg")) as store:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang(connection):
            loop.call_soon(begun.set)
            connection.execute(sa.text("SELECT pg_sleep(3600)"))

        hanging = asyncio.create_task(store.transact(hang))
        await begun.wait()
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert store._own.pool.checkedout() == 0
        await store.transact(partial(_insert, name="after"))


async def test_a_connection_in_use_is_closed_when_it_is_given_back(any_database):
    """I14: an engine that is closed under its users leaves nothing to the garbage collector, which cannot close it."""
    async with open_database(any_database) as store:
        async with store.engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
            driver = (await connection.get_raw_connection()).driver_connection
            await store.close()
            await connection.execute(sa.text("SELECT 1"))
        assert _is_closed(driver)
        await store.transact(partial(_insert, name="after"))  # it opens new ones when it is used again


def test_a_plain_connection_in_use_is_closed_when_it_is_given_back(sync_database):
    """I14: the same on an engine that blocks."""
    engine = sa.create_engine(sync_database)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        asyncio.run(dispose(engine))
        connection.execute(sa.text("SELECT 1"))
    assert _is_closed(driver)


def _is_closed(driver):
    match type(driver).__module__.partition(".")[0]:
        case "asyncpg":
            return driver.is_closed()
        case "aiosqlite":
            return not driver._running
        case "sqlite3":
            with pytest.raises(sqlite3.ProgrammingError):
                driver.total_changes  # noqa: B018
            return True
        case _:
            return driver.closed


def _insert(connection, name):
    connection.execute(sa.insert(Order).values(id=name, n=0))


async def test_sqlite_writers_in_one_process_take_turns(tmp_path):
    """H93, H94: many writers at once, none is told that the file is busy; durability is full on every connection."""
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}") as store:
        outbox = Outbox(store)

        async def write(n):
            async with store.writing(), session_of(store) as session, session.begin():
                session.add(Order(id=str(n)))
                outbox.add(session, Placed(order_id=str(n)))

        await asyncio.gather(*(write(n) for n in range(40)))
        assert len(await ids(store)) == 40
        for query, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert await store.read(lambda c, query=query: c.exec_driver_sql(f"PRAGMA {query}").scalar()) == expected
            async with store.engine.connect() as connection:
                assert (await connection.execute(sa.text(f"PRAGMA {query}"))).scalar() == expected


async def test_schema_translate_map_is_honoured(database):
    """P1, H3: an engine whose map names a schema is served there, relay included; another schema is another outbox."""
    url = database.url("asyncpg")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for schema in ("one", "two"):
            await connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    made = {}
    for schema in ("one", "two"):
        mapped = engine.execution_options(schema_translate_map={None: schema})
        async with mapped.begin() as connection:

            def tables(sync, schema=schema):
                sync.execute(sa.text(f"SET LOCAL search_path TO {schema}"))
                prepare_tables(sync)

            await connection.run_sync(tables)
        made[schema] = Database(mapped)
    from outbox.broker import ScriptedBroker

    outbox, broker = Outbox(made["one"]), ScriptedBroker()
    async with AsyncSession(made["one"].engine) as session:
        outbox.add(session, Placed(order_id="o"))
        await session.commit()
    async with AsyncSession(made["two"].engine) as session:
        outbox.add(session, Placed(order_id="o"))
        with pytest.raises(WrongDatabase):
            await session.commit()
    async with engine.connect() as connection:
        count = "SELECT (SELECT count(*) FROM one.txp_outbox), (SELECT count(*) FROM two.txp_outbox)"
        assert (await connection.execute(sa.text(count))).one() == (1, 0)
    await Relay(made["one"], broker).run_once()
    assert len(broker.wire) == 1
    for one in made.values():
        await one.close()
    await engine.dispose()


async def test_link_lost_during_commit(postgres, proxied, database):
    """P1, H5: the reply to COMMIT is lost: the caller sees an error, and business row and message agree."""
    proxy = proxied(postgres.port)
    async with open_database(database.url("asyncpg")) as direct:
        outbox = Outbox(direct)
        engine = create_async_engine(database.url("asyncpg", port=proxy.port))
        async with AsyncSession(engine) as session:
            session.add(Order(id="warm"))
            outbox.add(session, Placed(order_id="warm"))
            await session.commit()
        async with AsyncSession(engine) as session:
            session.add(Order(id="o"))
            known = outbox.add(session, Placed(order_id="o"))
            await session.flush()
            proxy.lose_reply(to=b"COMMIT")
            with pytest.raises((sa.exc.DBAPIError, OSError)) as failed:
                await session.commit()
            await session.rollback()
        proxy.wait_fired("lose reply")
        assert is_disconnect(failed.value)
        there = {row.id for row in await rows(direct, sa.select(Order.__table__))}
        assert (known in await ids(direct)) == ("o" in there)
        await engine.dispose()


async def test_strict_keys_follow_the_commits(database):
    """P3, H7, H8: strict events of writers that share no row are in commit order; crossing keys do not deadlock."""
    from outbox.support import Strict

    async with open_database(database.url("asyncpg")) as store:
        outbox = Outbox(store)
        await ids(store)

        async def write(n):
            async with session_of(store) as session, session.begin():
                for key in ("a", "b") if n % 2 else ("b", "a"):
                    outbox.add(session, Strict(order_id=key, n=n))

        async with asyncio.timeout(120):
            await asyncio.gather(*(write(n) for n in range(30)))
        async with store.engine.connect() as first, store.engine.connect() as second:
            slow, quick = await first.begin(), await second.begin()
            outbox.add(first, Strict(order_id="k", n=1))
            await first.run_sync(lambda c: _write_early(outbox, c))
            outbox.add(second, Strict(order_id="k", n=2))
            waiting = asyncio.ensure_future(quick.commit())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await slow.commit()
            await waiting
        found = await rows(store, ROWS)
        assert len(found) == 62
        assert [row.position for row in found if row.key == "k"] == sorted(r.position for r in found if r.key == "k")
        for key in ("a", "b"):
            assert len([row for row in found if row.key == key]) == 30


def _write_early(outbox, connection):
    """What the commit does, without the commit."""
    commit_of(connection).write(connection, lambda unit: True)


async def test_an_error_does_not_tell_what_was_written(any_database):
    """H152: the values of a failed statement, which may be personal data, are not in the text of its error."""
    async with Database(any_database) as made_of_a_url:
        insert = sa.text("INSERT INTO no_such_table VALUES (:name)").bindparams(name="Ada Lovelace")
        for run in (made_of_a_url.transact, made_of_a_url.read):
            with pytest.raises(DBAPIError) as raised:
                await run(lambda connection: connection.execute(insert))
            assert "Ada" not in str(raised.value)
