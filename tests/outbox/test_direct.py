"""The relay's kept connections: what goes wrong on one costs that connection, never the next statement."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError

from database.cancelling import cancelled_at
from outbox.support import open_database
from txpatterns.database import Database
from txpatterns.database.direct import Direct

ALIVE = "SELECT 1 AS one"


@pytest.fixture
async def store(database):
    async with open_database(database.url("asyncpg")) as store:
        yield store


@pytest.fixture
async def direct(store):
    direct = Direct(store)
    yield direct
    await direct.close()


async def test_a_lost_connection_is_opened_again(store, direct):
    """H35, I14: the statement that meets it fails as SQLAlchemy's would; the next one has a new connection."""
    ((pid,),) = await direct.fetch("SELECT pg_backend_pid()")
    await store.transact(lambda c: c.execute(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid}))
    with pytest.raises(DBAPIError) as raised:
        await direct.fetch(ALIVE)
    assert raised.value.connection_invalidated
    assert [tuple(row) for row in await direct.fetch(ALIVE)] == [(1,)]


async def test_an_error_is_told_in_sqlalchemys_words(direct):
    """H147: whoever retries by class of error sees what SQLAlchemy would have raised."""
    with pytest.raises(ProgrammingError):
        await direct.execute("DELETE FROM no_such_table")
    assert [tuple(row) for row in await direct.fetch(ALIVE)] == [(1,)]


async def test_cancelled_in_the_middle(store, direct):
    """H6, I14: the connection is thrown away; nothing of the cancelled statement goes on or is met later."""
    await direct.fetch(ALIVE)
    waiting = asyncio.ensure_future(direct.fetch("SELECT pg_sleep(600)"))
    sleeping = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
    )

    async def asleep() -> int:
        return await store.read(lambda connection: connection.scalar(sleeping))

    async with asyncio.timeout(120):
        while not await asleep():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [tuple(row) for row in await direct.fetch(ALIVE)] == [(1,)]
        while await asleep():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("again", [False, True])
async def test_cancelled_while_it_connects(store, again):
    """H6, I14: cancelled at each suspension of its first statement, it leaves no connection behind, and goes on."""
    ours = "backend_type = 'client backend' AND datname = current_database()"
    count = sa.text(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}")

    async def connections() -> int:
        return await store.read(lambda connection: connection.scalar(count))

    before, reached, at = await connections(), True, 0
    while reached:
        direct = Direct(store)
        reached = await cancelled_at(lambda direct=direct: direct.fetch(ALIVE), at, again=again)
        assert [tuple(row) for row in await direct.fetch(ALIVE)] == [(1,)]
        await direct.close()
        at += 1
    assert at > 5
    async with asyncio.timeout(120):
        while await connections() > before:  # noqa: ASYNC110 - the server ends a backend in its own time
            await asyncio.sleep(0.01)


async def test_not_behind_a_pooler_and_only_with_asyncpg(database):
    """H98: prepared in one round trip and run in another, a statement may meet two servers behind a pooler."""
    url = database.url("asyncpg")
    for given, serves in (((url, None), True), ((url, url), False), ((database.url("psycopg"), None), False)):
        store = Database(given[0], listen_url=given[1])
        assert Direct.serves(store) is serves
        await store.close()


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_a_servers_usual_level_is_not_ours(database, level):
    """P7, H225: at a higher level the relay's statements would make the application's transactions fail."""
    engine = sa.create_engine(database.url("psycopg"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER DATABASE {engine.url.database} SET default_transaction_isolation = '{level}'"
        )
    engine.dispose()
    shown = "SELECT current_setting('transaction_isolation') AS level"
    async with open_database(database.url("asyncpg")) as store:
        direct = Direct(store)
        assert [row["level"] for row in await direct.fetch(shown)] == ["read committed"]
        await direct.execute("CREATE TABLE written (n integer)")
        with pytest.raises(DBAPIError):
            await direct.execute("SELECT 1 / 0")
        await direct.execute("INSERT INTO written VALUES (1)")
        await direct.close()
        for way in (store.read, store.transact):
            assert await way(lambda c: c.scalar(sa.text(shown))) == "read committed"
        assert await store.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM written"))) == 1
        async with store.engine.connect() as theirs:
            assert await theirs.scalar(sa.text(shown)) == level  # that of the application stays
