"""A second connection is one like the first: nothing that it was asked to be made with is lost on the way."""

import ssl

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy import NullPool, event
from sqlalchemy.ext.asyncio import create_async_engine

from txpatterns import App, Event, MemoryBroker, SyncTransaction, Transaction
from txpatterns.database import Database
from txpatterns.database.agreement import check_sessions
from txpatterns.database.arguments import arguments_of, translation
from txpatterns.database.second import engine_at, plain_engine
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError, SchemaError, WrongDatabase

NOWHERE = "postgresql+asyncpg://us@127.0.0.1:1/none"


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


def carried(url=NOWHERE, *, is_pooled=False, **given):
    """What psycopg is given where asyncpg was given this."""
    engine = create_async_engine(url, connect_args=given).sync_engine
    args, made = translation("asyncpg", is_pooled=is_pooled)(arguments_of(engine), engine.dialect)
    assert args == []
    return {name: value for name, value in made.items() if name not in ("user", "host", "port", "dbname")}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {}),
        ({"ssl": True}, {"sslmode": "verify-full", "sslrootcert": "system"}),
        ({"ssl": "require"}, {"sslmode": "require"}),
        ({"ssl": "verify-full", "direct_tls": True}, {"sslmode": "verify-full", "sslnegotiation": "direct"}),
        ({"ssl": False}, {"sslmode": "disable"}),
        ({"timeout": 3.2}, {"connect_timeout": 4}),
        ({"password": lambda: "fetched"}, {"password": "fetched"}),
        ({"server_settings": {"search_path": "a, b"}}, {"options": r"-c search_path=a,\ b"}),
        ({"server_settings": {"application_name": "shop"}}, {"application_name": "shop"}),
        ({"command_timeout": 1.5}, {"options": "-c statement_timeout=1500"}),
        ({"statement_cache_size": 0, "command_timeout": 30}, {"prepare_threshold": None}),
        ({"prepared_statement_name_func": lambda: ""}, {"prepare_threshold": None}),
    ],
)
def test_what_asyncpg_was_given_is_given_to_psycopg(given, made):
    """H222: each argument has its counterpart; TLS that was asked for is asked for again."""
    assert carried(**given) == made


@pytest.mark.parametrize(
    ("query", "made"),
    [
        ("ssl=require", {"sslmode": "require"}),
        ("prepared_statement_cache_size=0", {"prepare_threshold": None}),
        ("command_timeout=30", {"options": "-c statement_timeout=30000"}),
    ],
)
def test_what_the_url_says_is_carried_over(query, made):
    """H222: what is in the URL has asyncpg's names, too."""
    assert carried(f"{NOWHERE}?{query}") == made


async def fetched():
    return "a password"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"connect_args": {"ssl": ssl.create_default_context()}}, "SSLContext"),
        ({"connect_args": {"password": fetched}}, "coroutine"),
        ({"connect_args": {"of_tomorrow": 1}}, "nothing like the argument of_tomorrow"),
        ({"async_creator": fetched}, "a function of yours"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(given, why):
    """H222: rather than made with less; the text says what to give instead."""
    engine = create_async_engine(NOWHERE, **given)
    with pytest.raises(ConfigurationError, match=rf"{why}.*Fix: .*sync_engine=create_engine"):
        plain_engine(engine, is_pooled=False)
    own = sa.create_engine("postgresql+psycopg://us@127.0.0.1:1/none")
    assert Database(engine, sync_engine=own).sync_engine is own


def test_a_listener_that_connects_itself_is_refused():
    """H222: what it was given is known to nobody else."""
    engine = create_async_engine(NOWHERE)
    event.listen(engine.sync_engine, "do_connect", lambda *_given: object())
    with pytest.raises(ConfigurationError, match="do_connect listener opens its connections"):
        plain_engine(engine, is_pooled=False)


class AsyncCursorOfOurs(psycopg.AsyncCursor): ...


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"row_factory": dict_row}, "of a class of yours"),
        ({"cursor_factory": AsyncCursorOfOurs}, "AsyncCursorOfOurs is a class of cursors for asynchronous connections"),
    ],
)
def test_what_psycopg_reads_rows_with_is_refused(given, why):
    """H222: the library's own statements would read other rows; cursors of psycopg's own have their counterpart."""
    engine = create_async_engine("postgresql+psycopg_async://us@127.0.0.1:1/none", connect_args=given)
    with pytest.raises(ConfigurationError, match=why):
        plain_engine(engine, is_pooled=False)


def test_a_kind_of_cursors_of_psycopgs_own_is_carried_over():
    """H222: the one for asynchronous connections has a plain counterpart."""
    given = {"cursor_factory": psycopg.AsyncClientCursor}
    engine = create_async_engine("postgresql+psycopg_async://us@127.0.0.1:1/none", connect_args=given).sync_engine
    translate = translation("psycopg_async", is_pooled=False)
    assert translate(arguments_of(engine), engine.dialect)[1]["cursor_factory"] is psycopg.ClientCursor


async def test_a_start_with_def_handlers_refuses_what_cannot_be_carried_over(database):
    """H222: at the start, not at the first message."""
    url = database.url("asyncpg")

    async def connect():
        return await asyncpg.connect(url.replace("+asyncpg", ""))

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    app = App("shop", engine, MemoryBroker())

    @app.on(Placed)
    def see(event: Placed, tx: SyncTransaction) -> None: ...

    await app.database.transact(create_missing)
    with pytest.raises(ConfigurationError, match="a function of yours opens its connections"):
        async with app.running():
            pass
    await app.close()
    await engine.dispose()


async def test_plain_sessions_have_what_the_engine_was_made_with(database):
    """H222, H223: settings, a listener's credentials, the isolation level and the pool's limits are the same."""
    url = sa.make_url(database.url("asyncpg"))
    user = url.username
    engine = create_async_engine(
        url.set(username="expired"),
        connect_args={"server_settings": {"application_name": "shop", "search_path": "public, pg_catalog"}},
        isolation_level="REPEATABLE READ",
        pool_size=2,
        max_overflow=1,
    )

    @event.listens_for(engine.sync_engine, "do_connect")
    def token(_dialect, _record, _args, given):
        given["user"] = user

    async with Database(engine) as store:
        await store.transact(create_missing)
        with store.sync_session() as session:
            shown = "SELECT current_setting('application_name'), current_setting('search_path'), current_user"
            assert session.execute(sa.text(shown)).one() == ("shop", "public, pg_catalog", user)
            assert session.scalar(sa.text("SHOW transaction_isolation")) == "repeatable read"
        assert store.sync_engine.pool.size() == 2
        await check_sessions(store, asynchronous=True, plain=True)
    await engine.dispose()


async def test_sessions_that_begin_otherwise_are_refused(database):
    """H223: a listener that speaks to one driver's connections is not carried over, and that is told at the start."""
    engine = create_async_engine(database.url("asyncpg"))

    @event.listens_for(engine.sync_engine, "connect")
    def timeout(connection, _record):
        connection.run_async(
            lambda driver: driver.execute("SET statement_timeout = '5s'; SET search_path = public, pg_catalog")
        )

    async with Database(engine) as store:
        await store.transact(create_missing)
        with pytest.raises(
            ConfigurationError, match=r"search path is 'public', not 'public, pg_catalog'.*statement_timeout"
        ):
            await check_sessions(store, asynchronous=True, plain=True)
        await check_sessions(store, asynchronous=True, plain=False)
    await engine.dispose()


async def test_a_plain_engine_of_another_database_is_refused(database, postgres):
    """H223, H3: engines that the application made are compared where handlers write."""
    engine = create_async_engine(database.url("asyncpg"))
    elsewhere = sa.create_engine(sa.make_url(database.url("psycopg")).set(database="postgres"))
    own = sa.create_engine(database.url("psycopg"))
    async with Database(engine) as store:
        await store.transact(create_missing)
    async with Database(engine, sync_engine=own) as store:
        await check_sessions(store, asynchronous=False, plain=True)
    async with Database(engine, sync_engine=elsewhere) as store:
        with pytest.raises((SchemaError, WrongDatabase)):
            await check_sessions(store, asynchronous=False, plain=True)
    await engine.dispose()
    elsewhere.dispose()
    own.dispose()


def test_the_direct_address_keeps_the_rest():
    """H222: the listener's connection differs from the pool's in its address alone."""
    for driver, given in (("asyncpg", {"ssl": "require"}), ("psycopg", {"sslmode": "require"})):
        engine = create_async_engine(f"postgresql+{driver}://us:secret@pooler:6432/shop", connect_args=given)
        seen = []

        @event.listens_for(engine.sync_engine, "do_connect")
        def token(_dialect, _record, _args, given):
            given["password"] = "fresh"

        made = engine_at(engine, "postgresql://us@direct:5432/shop").sync_engine
        assert made.dialect.driver == driver
        (listener,) = made.dialect.dispatch.do_connect
        made.dialect.connect = lambda seen=seen, **given: seen.append(given)
        listener(made.dialect, None, [], {})
        ((name, value),) = given.items()
        assert (seen[0]["host"], seen[0][name], seen[0]["password"]) == ("direct", value, "fresh")


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_the_recipe_for_a_pooler_serves_both_kinds_of_handlers(database, pgbouncer, kind):
    """P1, P2, H98, H222: through PgBouncer with psycopg as the how-to says, nothing is prepared in plain handlers."""
    engine = create_async_engine(
        database.url("psycopg", port=pgbouncer.port), poolclass=NullPool, connect_args={"prepare_threshold": None}
    )
    app = App("shop", Database(engine, listen_url=database.url("psycopg")), MemoryBroker())
    count = sa.text("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql")
    prepared = []
    if kind == "plain":

        @app.on(Placed)
        def see(event: Placed, tx: SyncTransaction) -> None:
            prepared.append(tx.session.scalar(count))

    else:

        @app.on(Placed)
        async def look(event: Placed, tx: Transaction) -> None:
            prepared.append(await tx.session.scalar(count))

    await app.database.transact(create_missing)
    async with app.running():
        for number in range(20):
            async with app.session() as session, session.begin():
                app.outbox.add(session, Placed(order_id=str(number % 5)))
        await app.drained()
    assert prepared == [0] * 20
    await app.close()
    await engine.dispose()
