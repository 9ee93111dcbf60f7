"""The one door to the database: repeats, time, identity, schemas, and a pool that stays clean."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from outbox.support import ROWS, OffsetClock, Order, Placed, ids, open_database, prepare_tables, rows, session_of
from outbox.test_add import _cancelled_at
from txpatterns.database import Database
from txpatterns.database.dialects import is_disconnect, is_repeatable
from txpatterns.errors import WrongDatabase
from txpatterns.outbox import Outbox, Relay


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
        assert len(tries) == 3


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


# The driver's connection may be cancelled between the pool and its user; then the collector closes it, and says so.
@pytest.mark.filterwarnings("ignore:The garbage collector", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_cancelled_transactions_leave_a_clean_pool(store):
    """H6, I14: cancelled at each of its suspensions, a transaction is whole or not at all, and the pool goes on."""
    done, at = False, 0
    while not done:
        name = f"o{at}"
        done = await _cancelled_at(
            store.transact(lambda c, name=name: c.execute(sa.insert(Order).values(id=name, n=0))), at
        )
        at += 1
        assert at < 100
    for n in range(6):
        await store.transact(lambda c, n=n: c.execute(sa.insert(Order).values(id=f"after{n}", n=0)))
    if not store.is_sqlite:
        idle = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state LIKE 'idle in transaction%'"
        )
        assert await store.read(lambda c: c.execute(idle).scalar_one()) == 0
    assert at > 1


async def test_sqlite_writers_in_one_process_take_turns(tmp_path):
    """H93: many writers at once, none is told that the file is busy; durability is full on every connection."""
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}") as store:
        outbox = Outbox(store)

        async def write(n):
            async with store.writing(), session_of(store) as session, session.begin():
                session.add(Order(id=str(n)))
                outbox.add(session, Placed(order_id=str(n)))

        await asyncio.gather(*(write(n) for n in range(40)))
        assert len(await ids(store)) == 40
        for query, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            for engine in (store.engine, store._own):
                async with engine.connect() as connection:
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

        async with asyncio.timeout(60):
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
    from txpatterns.outbox.units import _units

    for unit in _units[connection]:
        unit.write(connection)
