"""Where the Apps of a test are: rows that stay out of the next one, engines of the application's own, connections."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from rig.servers.postgres import Database
from txpatterns import App, Event, SyncTransaction, Transaction
from txpatterns.database import migrations
from txpatterns.database.engines import prepare
from txpatterns.database.schema import DISPENSABLE, SCHEMA_VERSION, database_table, metadata
from txpatterns.errors import ConfigurationError, SchemaError, WrongDatabase
from txpatterns.testing.hands import in_hand
from txpatterns.testing.harness import Txp
from txpatterns.testing.homes import Homes


class Base(DeclarativeBase):
    pass


class Country(Base):
    __tablename__ = "country"
    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    country: Mapped[str | None] = mapped_column(sa.ForeignKey("country.code"))


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


async def pack(event: OrderPlaced, tx: Transaction) -> None: ...


def pack_in_a_thread(event: OrderPlaced, tx: SyncTransaction) -> None: ...


@pytest.fixture
def app() -> App:
    app = App("orders", metadata=Base.metadata)
    app.on(OrderPlaced)(pack)
    return app


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


async def place(app: App, order_id: str = "1", *, after: timedelta | None = None) -> None:
    async with app.transaction() as session:
        session.add(Order(id=order_id))
        app.outbox.add(session, OrderPlaced(order_id=order_id), deliver_after=after)


async def a_test(txp: Txp) -> None:
    """What leaves something in every table."""
    await place(txp.app)
    await txp.drain()
    txp.assert_handled(pack, order_id="1", times=1)
    await place(txp.app, "2", after=timedelta(minutes=5))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_rows_of_one_test_are_not_in_the_next(driver: str, app: App, homes: Homes, database: Database):
    """P1, P2, H230: the application's, those that wait, and the inbox's, for the second would be a duplicate."""
    for _ in range(3):
        with in_hand([app], homes, database=database.url(driver)) as txp:
            await txp.advance(hours=1)
            assert txp.published == []
            await a_test(txp)


async def test_connections_of_one_test_are_not_there_in_the_next(app: App, homes: Homes, database: Database):
    """I14, H230: a pool would keep those of an event loop that is gone."""
    for _ in range(3):
        with in_hand([app], homes, database=database.url("asyncpg")) as txp:
            await a_test(txp)
            assert connected(database) == 0


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_connection_left_open_holds_up_no_other_test(driver: str, app: App, homes: Homes, database: Database):
    """I14, H230: the rows that it has locked could not be deleted, and the next test would wait for ever."""
    hand = in_hand([app], homes, database=database.url(driver))
    hand.__enter__()
    await place(app)
    left = app.session()
    await left.execute(sa.select(Order).with_for_update())
    with pytest.raises(AssertionError, match="never given back"):
        hand.__exit__(None, None, None)
    with in_hand([app], homes, database=database.url(driver)) as txp:
        await a_test(txp)
    with pytest.raises(DBAPIError):
        await left.execute(sa.select(1))
    await left.invalidate()


def connected(database: Database) -> int:
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with plain(database) as connection:
        return connection.execute(query).scalar_one()


@contextmanager
def plain(database: Database) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database.url("psycopg"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection


async def test_rows_that_were_there_before_stay(app: App, homes: Homes, database: Database):
    """H230: what migrations or a fixture of the run have put in, though a test changes it."""
    with plain(database) as connection:
        Base.metadata.create_all(connection)
        connection.execute(sa.insert(Country), [{"code": "at", "name": "Austria"}, {"code": "ch", "name": "Schweiz"}])
    for _ in range(2):
        with in_hand([app], homes, database=database.url("asyncpg")):
            async with app.transaction() as session:
                found = await session.scalars(sa.select(Country.name).order_by(Country.code))
                assert found.all() == ["Austria", "Schweiz"]
                session.add(Order(id="1", country="at"))
                await session.execute(sa.update(Country).where(Country.code == "at").values(name="Österreich"))
                await session.execute(sa.delete(Country).where(Country.code == "ch"))


async def test_the_tables_of_the_release_before_are_tested_on_too(app: App, homes: Homes, database: Database):
    """H100, H230: a release works before its migration has run, so its test kit asks for nothing that comes with it."""
    with plain(database) as connection:
        migrations.upgrade(connection)
        for table in DISPENSABLE & metadata.tables.keys():
            connection.execute(sa.text(f"DROP TABLE {table}"))
        connection.execute(sa.update(database_table).values(version=SCHEMA_VERSION - 1))
    for _ in range(2):
        with in_hand([app], homes, database=database.url("asyncpg")) as txp:
            await a_test(txp)


async def test_a_database_with_many_rows_is_not_emptied(app: App, homes: Homes, database: Database):
    """H230: somebody's own database was named by mistake."""
    rows = [{"code": str(number), "name": ""} for number in range(10_001)]
    with plain(database) as connection:
        Base.metadata.create_all(connection)
        connection.execute(sa.insert(Country), rows)
    with (
        pytest.raises(ConfigurationError, match=r"no database for tests: country has more than 10000 rows"),
        in_hand([app], homes, database=database.url("asyncpg")),
    ):
        pass
    with plain(database) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM country")).scalar_one() == len(rows)


@pytest.mark.parametrize(
    ("label", "refused"), [("elsewhere:1", True), (f"{socket.gethostname()}:{os.getppid()}", True)]
)
async def test_a_database_at_which_somebody_works_is_refused(
    label: str, refused: bool, app: App, homes: Homes, database: Database
):
    """H230: its messages would be lost, and its work done here."""
    member = "INSERT INTO txp_member VALUES ('outbox', 'x', :label, now(), now() + interval '1 minute')"
    with plain(database) as connection:
        Base.metadata.create_all(connection)
        connection.execute(sa.text(member), {"label": label})
    with (
        pytest.raises(ConfigurationError, match=f"the process {label} works on it"),
        in_hand([app], homes, database=database.url("asyncpg")),
    ):
        pass


@pytest.mark.parametrize("given", ["engine", "sessionmaker"])
async def test_the_applications_own_engine_is_taken_as_it_is(given: str, homes: Homes, any_database: str):
    """P1, P2, H230: its own sessions see what the test's do, and its pool is as before afterwards."""
    engine = create_async_engine(any_database)
    prepare(engine.sync_engine)
    make_session = async_sessionmaker(engine, expire_on_commit=False)
    app = App("orders", engine, metadata=Base.metadata)
    app.on(OrderPlaced)(pack)
    pool = engine.pool
    for _ in range(2):
        with in_hand([app], homes, database=engine if given == "engine" else make_session) as txp:
            async with make_session() as session, session.begin():
                assert (await session.scalars(sa.select(Order))).all() == []
                session.add(Order(id="1"))
                app.outbox.add(session, OrderPlaced(order_id="1"))
            await txp.drain()
            txp.assert_handled(pack, order_id="1", times=1)
    assert engine.pool is pool
    await engine.dispose()


async def test_the_applications_own_sessionmaker_is_given_the_tests_database(homes: Homes):
    """P1, P2, H3: without it, its sessions would still be those of the production database, which is refused."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/production")
    make_session = async_sessionmaker(engine)
    app = App("orders", engine, metadata=Base.metadata)
    app.on(OrderPlaced)(pack)
    with in_hand([app], homes, sessions=[make_session]) as txp:
        async with make_session() as session, session.begin():
            session.add(Order(id="1"))
            app.outbox.add(session, OrderPlaced(order_id="1"))
        await txp.drain()
        txp.assert_handled(pack, order_id="1", times=1)
    assert make_session.kw["bind"] is engine


def test_a_plain_sessionmaker_is_given_it_too(homes: Homes):
    """P1: of an App with an asynchronous engine, the plain one to the same database."""
    make_session = sessionmaker(sa.create_engine("sqlite:///never-made.db"))
    app = App("orders", metadata=Base.metadata)
    with in_hand([app], homes, sessions=[make_session]) as txp:
        with make_session() as session, session.begin():
            session.add(Order(id="1"))
            app.outbox.add(session, OrderPlaced(order_id="1"))
        with app.sync_session() as session:
            assert session.scalars(sa.select(Order.id)).all() == ["1"]
        assert txp.published == []
    assert not Path("never-made.db").exists()


async def test_an_app_on_a_plain_engine_keeps_its_kind(homes: Homes, database: Database):
    """P2: whichever driver the URL of the tests names."""
    app = App("orders", sa.create_engine("sqlite:///never-made.db"), metadata=Base.metadata)
    app.on(OrderPlaced)(pack_in_a_thread)
    for given in (None, database.url("asyncpg")):
        with in_hand([app], homes, database=given) as txp:
            with app.sync_transaction() as session:
                app.outbox.add(session, OrderPlaced(order_id="1"))
            await txp.drain()
            txp.assert_handled(pack_in_a_thread, order_id="1")


async def test_parts_that_code_has_kept_are_those_of_the_test(app: App, homes: Homes):
    """P1, H3: `outbox = app.outbox` at the top of a module would write for another database."""
    outbox = app.outbox
    with in_hand([app], homes) as txp:
        async with app.transaction() as session:
            outbox.add(session, OrderPlaced(order_id="1"))
        await txp.drain()
        txp.assert_published(OrderPlaced, times=1)
    assert app.outbox is outbox


async def test_sessions_of_another_database_are_refused(app: App, homes: Homes, tmp_path: Path):
    """H3: a message of a test never goes to a database that nobody meant."""
    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    with in_hand([app], homes):
        async with App("other", other, metadata=Base.metadata):
            with pytest.raises(WrongDatabase):
                async with AsyncSession(other) as session, session.begin():
                    app.outbox.add(session, OrderPlaced(order_id="1"))
    await other.dispose()


async def test_several_apps_are_given_their_databases_by_name(app: App, homes: Homes, database: Database):
    """P2: one on a server, one on a file."""
    other = App("parcels", metadata=Base.metadata)
    with in_hand([app, other], homes, database={"orders": database.url("asyncpg"), "parcels": ""}) as txp:
        await place(app)
        await txp.drain()
        assert (app.database.dialect, other.database.dialect) == ("postgresql", "sqlite")
    with (
        pytest.raises(ConfigurationError, match="names no database for 'parcels'"),
        in_hand([app, other], homes, database={"orders": ""}),
    ):
        pass


@pytest.mark.parametrize("given", ["sqlite://", "sqlite+aiosqlite:///:memory:"])
@pytest.mark.parametrize("kind", ["url", "engine"])
def test_a_database_in_memory_is_refused(given: str, kind: str, app: App, homes: Homes):
    """H230: each connection has its own, so what a test writes is not where its App looks."""
    database = given if kind == "url" else sa.create_engine(given.replace("+aiosqlite", ""))
    with pytest.raises(ConfigurationError, match=r"is in memory.*Leave txp_database out"):
        in_hand([app], homes, database=database).__enter__()


def test_tables_that_sqlite_does_not_know_ask_for_another_database(homes: Homes):
    """P7: which types of a column need PostgreSQL, and what to do."""
    metadata = sa.MetaData()
    sa.Table("tagged", metadata, sa.Column("tags", postgresql.ARRAY(sa.Text)))
    with pytest.raises(ConfigurationError, match=r"column 'tags'.*Let txp_database name a PostgreSQL database"):
        in_hand([App("orders", metadata=metadata)], homes).__enter__()


def test_a_chain_of_migrations_that_was_not_run_is_told(app: App, homes: Homes, database: Database):
    """P7: the tables are for it to make, so the kit makes none."""
    with plain(database) as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num text)"))
    with pytest.raises(SchemaError, match="txp_database"):
        in_hand([app], homes, database=database.url("asyncpg")).__enter__()
