"""One idea of "our schema": whatever a session, the metadata or an engine say, all of the library uses one place."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, MemoryBroker, Transaction, attach
from txpatterns.database import Database, migrations
from txpatterns.database.schema import attached_schema
from txpatterns.database.setup import create_missing, verify
from txpatterns.errors import ConfigurationError, SchemaError, WrongDatabase

IN_TENANT = sa.text("SET LOCAL search_path TO tenant")
TABLES = ("txp_outbox", "txp_outbox_waiting", "txp_inbox")


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class Packed(Event, topic="parcels", type="order.packed", key="order_id"):
    order_id: str


@pytest.fixture(params=["asyncpg", "psycopg"])
async def url(request, database):
    """A database with our tables in `public` and in `tenant`, as `metadata.create_all` for each tenant makes them."""
    url = database.url(request.param)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(create_missing)
        await connection.execute(sa.text("CREATE SCHEMA tenant"))
        await connection.execute(IN_TENANT)
        await connection.run_sync(attach(sa.MetaData()).create_all)
    await engine.dispose()
    return url


@asynccontextmanager
async def made(url, **given):
    """An App with an engine of its own; both closed at the end."""
    engine = create_async_engine(url)
    app = App("shop", given.pop("database", Database)(engine), MemoryBroker(), **given)
    try:
        yield app
    finally:
        await app.close()
        await engine.dispose()


async def counts(app, schema):
    async with app.database.engine.connect() as connection:
        queries = [sa.select(sa.func.count()).select_from(sa.table(name, schema=schema)) for name in TABLES]
        return tuple([(await connection.execute(query)).scalar() for query in queries])


async def test_a_search_path_leads_no_message_elsewhere(url):
    """P1, H220: written, put off and cancelled in a transaction whose names lead to a tenant: all of it is at home."""
    async with made(url) as app:
        async with app.session() as session, session.begin():
            await session.execute(IN_TENANT)
            app.outbox.add(session, Placed(order_id="now"))
            later = app.outbox.add(session, Placed(order_id="later"), deliver_after=timedelta(hours=1))
            assert await app.inbox.aclaim(session, "consumer", "m1")
            assert (await session.execute(sa.text("SELECT current_schema()"))).scalar() == "tenant"
        assert await counts(app, "public") == (1, 1, 1)
        assert await counts(app, "tenant") == (0, 0, 0)
        async with app.session() as session, session.begin():
            await session.execute(IN_TENANT)
            assert await app.outbox.acancel(session, later)
            assert not await app.inbox.aclaim(session, "consumer", "m1")
        assert await counts(app, "public") == (1, 0, 1)


async def test_a_handlers_search_path_leads_nothing_elsewhere(url):
    """P1, P2, H220: what a handler emits after it has gone to its tenant is published, and it is handled once."""
    packed = asyncio.Event()
    async with made(url) as app:

        @app.on(Placed)
        async def pack(event: Placed, tx: Transaction) -> None:
            await tx.session.execute(IN_TENANT)
            tx.emit(Packed(order_id=event.order_id))

        @app.on(Packed)
        async def note(event: Packed, tx: Transaction) -> None:
            packed.set()

        async with app.running():
            async with app.session() as session, session.begin():
                await session.execute(IN_TENANT)
                app.outbox.add(session, Placed(order_id="o"))
            await asyncio.wait_for(packed.wait(), 120)
            await app.drained()
        assert await counts(app, "tenant") == (0, 0, 0)
        assert await counts(app, "public") == (0, 0, 2)


async def test_the_schema_of_the_metadata_is_where_all_of_it_happens(database):
    """P1, H221: `MetaData(schema=...)` names the place for the tables, for what writes and for what reads."""

    class Base(DeclarativeBase):
        metadata = sa.MetaData(schema="booking")

    class Slip(Base):
        __tablename__ = "slips"
        id: Mapped[str] = mapped_column(primary_key=True)

    url, handled = database.url("asyncpg"), asyncio.Event()
    async with made(url, metadata=Base.metadata) as app:
        attach(Base.metadata)  # a second time: as it is
        async with app.database.engine.begin() as connection:
            await connection.execute(sa.text("CREATE SCHEMA booking"))
            await connection.run_sync(Base.metadata.create_all)

        @app.on(Placed)
        async def see(event: Placed, tx: Transaction) -> None:
            tx.session.add(Slip(id=event.order_id))
            handled.set()

        async with app.running():
            async with app.session() as session, session.begin():
                app.outbox.add(session, Placed(order_id="o"))
            await asyncio.wait_for(handled.wait(), 120)
            await app.drained()
        assert await counts(app, "booking") == (0, 0, 1)
        async with app.database.engine.connect() as connection:
            public = sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            assert (await connection.execute(public)).scalar() == 0


def test_a_metadata_that_is_attached_twice():
    """H221: the tables stay where they were put first; where that is can be asked."""
    target = sa.MetaData(schema="booking")
    before = set(attach(target).tables)
    assert set(attach(target).tables) == before
    assert attached_schema(target) == "booking"
    assert attached_schema(attach(sa.MetaData(), schema="messaging")) == "messaging"
    assert attached_schema(attach(attach(sa.MetaData()), schema="other")) is None
    assert attached_schema(sa.MetaData()) is None


async def test_two_schemas_are_refused():
    """H221: of two places that are named, none is chosen in silence."""
    target = attach(sa.MetaData(), schema="booking")
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with pytest.raises(ConfigurationError, match="attached in schema booking, but messaging is set"):
        App("shop", Database(engine, schema="messaging"), MemoryBroker(), metadata=target)


async def test_sqlite_has_no_schemas(tmp_path):
    """H221: a start on SQLite with tables in a schema says what to do."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    app = App("shop", url, MemoryBroker(), metadata=sa.MetaData(schema="booking"))
    with pytest.raises(ConfigurationError, match=r"schema_translate_map=\{'booking': None\}"):
        await app.prepare()
    await app.close()


async def test_tables_that_are_elsewhere_are_told(url):
    """H221, H147: what is missing here is not made a second time where it is there already."""
    async with made(url, database=lambda engine: Database(engine, schema="empty")) as app:
        with pytest.raises(SchemaError, match=r"missing in schema empty.*some in schema public, tenant"):
            await app.database.transact(verify)


async def test_a_map_to_another_outbox_is_refused(url):
    """H220: the map of one transaction names a schema that has tables of ours: whose relay would read them?"""
    async with made(url) as app:
        mapped = app.database.engine.execution_options(schema_translate_map={None: "tenant"})
        async with AsyncSession(mapped) as session:
            app.outbox.add(session, Placed(order_id="o"))
            with pytest.raises(WrongDatabase, match="leads to tenant"):
                await session.commit()
        assert await counts(app, "public") == await counts(app, "tenant") == (0, 0, 0)


@pytest.mark.parametrize("way", ["translate map", "search path"])
async def test_the_command_makes_one_set_in_the_schema(database, way):
    """H221, H100: `txp db upgrade`, its plain SQL included, works where the engine leads, and finds it there again."""
    given = {"connect_args": {"options": "-c search_path=messaging"}} if way == "search path" else {}
    engine = sa.create_engine(database.url("psycopg"), **given)
    if way == "translate map":
        engine = engine.execution_options(schema_translate_map={None: "messaging"})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA messaging")
    for _ in range(2):
        with engine.begin() as connection:
            migrations.upgrade(connection)
    with engine.begin() as connection:
        assert migrations.check(connection).differences == ()
        verify(connection)
        places = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'txp%%'"
        assert connection.exec_driver_sql(places).scalars().all() == ["messaging"]
        tuned = (
            "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE reloptions IS NOT NULL AND relname LIKE 'txp%%'"
        )
        assert set(connection.exec_driver_sql(tuned).scalars()) == {"messaging"}
    engine.dispose()


async def test_a_schema_that_is_missing_is_told(database):
    """H221, H147: the command names the statement, and makes nothing elsewhere."""
    engine = sa.create_engine(database.url("psycopg")).execution_options(schema_translate_map={None: "messaging"})
    with engine.begin() as connection, pytest.raises(ConfigurationError, match="CREATE SCHEMA messaging"):
        migrations.upgrade(connection)
    engine.dispose()
    assert "SET LOCAL search_path TO messaging" in migrations.sql("postgresql", "messaging")


@pytest.mark.parametrize("way", ["drop", "truncate"])
async def test_tables_that_are_made_again_are_known_again(url, way):
    """H226: suites that remake or empty the tables between their tests use one App, and an engine more for each."""
    metadata = attach(sa.MetaData())
    async with made(url) as app, app:
        for n in range(3):
            async with app.database.engine.begin() as connection:
                if way == "drop":
                    await connection.run_sync(metadata.drop_all)
                    await connection.run_sync(metadata.create_all)
                else:
                    for table in metadata.tables:
                        await connection.execute(sa.text(f"TRUNCATE {table}"))
            other = create_async_engine(url)
            for engine in (other, app.database.engine):
                async with AsyncSession(engine) as session, session.begin():
                    app.outbox.add(session, Placed(order_id=str(n)))
            await other.dispose()
            assert await counts(app, "public") == (2, 0, 0)


async def test_another_database_is_still_refused_after_that(url, postgres, database):
    """H226, H3: that the tables were made again is found out by looking, never taken for granted."""
    other = create_async_engine(url.replace("+asyncpg", "+psycopg").rpartition("/")[0] + "/postgres")
    async with made(url) as app:
        await app.prepare()
        async with AsyncSession(other) as session:
            app.outbox.add(session, Placed(order_id="o"))
            with pytest.raises((SchemaError, WrongDatabase)):
                await asyncio.wait_for(session.commit(), 120)
    await other.dispose()


@pytest.mark.parametrize("setting", ["DateStyle = 'German, DMY'", "standard_conforming_strings = off"])
async def test_settings_with_which_psycopg_changes_what_is_stored_are_refused(database, setting):
    """P1, P7, H227: other bytes would be published than were added, or no time could be read and nothing go out."""
    url = database.url("psycopg").replace("+psycopg:", "+psycopg_async:")
    async with Database(url) as ours:
        await ours.transact(lambda own: own.exec_driver_sql(f"ALTER DATABASE {own.engine.url.database} SET {setting}"))
    async with Database(url) as ours:
        with pytest.raises(ConfigurationError, match="ISO style times"):
            await ours.locate()
