"""The application's own sessionmaker in handlers and in `app.session()`, and sessions with more than one engine."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker, with_loader_criteria

from txpatterns import App, Event, SyncTransaction, Transaction
from txpatterns.clock import SystemClock
from txpatterns.database import Database
from txpatterns.database.engines import make_engine
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError, WrongDatabase


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    deleted: Mapped[bool] = mapped_column(default=False)


class Noted(Event, topic="notes", type="noted", key="id"):
    id: str


class MovedClock(SystemClock):
    """The real clock, whose steady time a test moves."""

    ahead = 0.0

    def monotonic(self):
        return super().monotonic() + self.ahead


class Plain(Session):
    """Leaves out what is deleted, by a listener of its own."""


class Ours(AsyncSession):
    sync_session_class = Plain


@event.listens_for(Plain, "do_orm_execute")
def hide_deleted(state):
    if state.is_select:
        state.statement = state.statement.options(with_loader_criteria(Note, Note.deleted == sa.false()))


async def test_handlers_have_the_applications_sessions(any_database):
    """H229: of its class, with its options and listeners, for both kinds of handlers and for `app.session()`."""
    engine = make_engine(any_database)
    database = Database(
        engine,
        sessions=async_sessionmaker(engine, class_=Ours, info={"of": "ours"}),
        sync_sessions=sessionmaker(class_=Plain, info={"of": "plain"}),
    )
    app, seen = App("notes", database, "memory://"), []

    @app.on(Noted)
    async def look(event: Noted, tx: Transaction) -> None:
        found = (await tx.session.scalars(sa.select(Note.id))).all()
        assert isinstance(tx.session, Ours)
        seen.append((tx.session.info["of"], found))

    @app.on(Noted)
    def look_plainly(event: Noted, tx: SyncTransaction) -> None:
        found = tx.session.scalars(sa.select(Note.id)).all()
        assert isinstance(tx.session, Plain)
        seen.append((tx.session.info["of"], found))

    await database.transact(create_missing)
    await database.transact(Base.metadata.create_all)
    async with app.running():
        async with app.transaction() as session:
            assert isinstance(session, Ours)
            session.add_all([Note(id="1"), Note(id="2", deleted=True)])
            app.outbox.add(session, Noted(id="1"))
        await app.drained()
    assert sorted(seen) == [("ours", ["1"]), ("plain", ["1"])]
    with app.sync_session(expire_on_commit=False) as session:
        assert isinstance(session, Plain)
    await app.close()
    await engine.dispose()


def test_a_sessionmaker_that_does_not_belong_is_refused(tmp_path):
    """H229, H147: one of the other kind, or on another engine, is refused where it is given."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    engine, other = create_async_engine(url), create_async_engine(url)
    plain = sa.create_engine(url.replace("+aiosqlite", ""))
    with pytest.raises(ConfigurationError, match=r"Fix: Give an async_sessionmaker"):
        Database(engine, sessions=sessionmaker(plain))
    with pytest.raises(ConfigurationError, match="bound to another engine"):
        Database(engine, sessions=async_sessionmaker(other))
    with pytest.raises(ConfigurationError, match="plain one already"):
        Database(plain, sync_sessions=sessionmaker(plain))
    assert Database(engine, sync_sessions=sessionmaker(plain)).sync_engine is plain


@pytest.mark.parametrize("kind", [async_sessionmaker, AsyncSession, lambda engine: engine.sync_engine.pool])
def test_what_is_no_engine_is_refused(tmp_path, kind):
    """H229: what is near at hand in an application, a sessionmaker above all, is refused with what to write."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(ConfigurationError, match=r"names no database.*Database\(engine, sessions=\.\.\.\)"):
        App("notes", kind(engine))
    with pytest.raises(ConfigurationError, match="no engine for plain sessions"):
        Database(engine, sync_engine=engine)


@pytest.fixture
async def routed(database):
    """An App on the primary, with a session class that reads from a replica; the replica takes no writes."""
    primary = create_async_engine(database.url("asyncpg"))
    replica = create_async_engine(
        database.url("asyncpg"), connect_args={"server_settings": {"default_transaction_read_only": "on"}}
    )

    class Routing(Session):
        def get_bind(self, mapper=None, *, clause=None, **given):
            if self._flushing or isinstance(clause, (sa.Update, sa.Delete)):
                return primary.sync_engine
            return replica.sync_engine

    sessions = async_sessionmaker(sync_session_class=Routing, expire_on_commit=False)
    app = App("notes", Database(primary, sessions=sessions), "memory://")
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)
    app.routed = async_sessionmaker(sync_session_class=Routing)
    yield app
    await app.close()
    await primary.dispose()
    await replica.dispose()


@pytest.mark.parametrize("steps", ["add", "read add", "read write add", "add read", "add write", "later cancel"])
async def test_a_message_follows_the_writes_of_a_routing_session(routed, steps):
    """P1, H229, H3: read from the replica or not, the message is committed with the writes, on the primary."""
    async with routed.routed() as session, session.begin():
        for step in steps.split():
            match step:
                case "read":
                    (await session.execute(sa.select(Note))).all()
                case "write":
                    session.add(Note(id="1"))
                case "add":
                    routed.outbox.add(session, Noted(id="1"))
                case "later":
                    scheduled = routed.outbox.add(session, Noted(id="2"), deliver_after=timedelta(hours=1))
                case "cancel":
                    assert await routed.outbox.acancel(session, scheduled)
    async with routed.database.engine.connect() as connection:
        assert await connection.scalar(sa.text("SELECT count(*) FROM txp_outbox")) == steps.count("add")
        assert await connection.scalar(sa.text("SELECT count(*) FROM notes")) == steps.count("write")


async def test_handlers_in_routing_sessions_write_on_the_primary(routed):
    """P2, H229: the inbox's row, the effect and what is emitted are one transaction there."""
    handled = asyncio.Event()

    @routed.on(Noted)
    async def note(event: Noted, tx: Transaction) -> None:
        (await tx.session.execute(sa.select(Note))).all()
        tx.session.add(Note(id=event.id))
        handled.set()

    async with routed.running():
        async with routed.transaction() as session:
            routed.outbox.add(session, Noted(id="1"))
        await asyncio.wait_for(handled.wait(), 120)
        await routed.drained()
    async with routed.database.engine.connect() as connection:
        assert await connection.scalar(sa.text("SELECT count(*) FROM notes")) == 1
        assert await connection.scalar(sa.text("SELECT count(*) FROM txp_inbox")) == 1


async def test_a_message_on_a_connection_that_only_reads_is_told(database):
    """H229, H147: the text names the mistake, not the table that could not be written."""
    replica = create_async_engine(
        database.url("asyncpg"), connect_args={"server_settings": {"default_transaction_read_only": "on"}}
    )
    app = App("notes", database.url("asyncpg"), "memory://")
    await app.database.transact(create_missing)
    async with app, AsyncSession(replica) as session:
        app.outbox.add(session, Noted(id="1"))
        with pytest.raises(WrongDatabase, match=r"only reads.*get_bind"):
            await session.commit()
    await replica.dispose()


async def test_a_consumer_without_a_database_is_not_ready(database):
    """P7, H224: handlers that find no connection are no progress: health says so until one has worked again."""
    engine = create_async_engine(database.url("asyncpg"), pool_size=1, max_overflow=0, pool_timeout=0.05)
    app = App("notes", Database(engine, clock=MovedClock()), "memory://")
    await app.database.transact(create_missing)
    handled = asyncio.Event()

    @app.on(Noted)
    async def note(event: Noted, tx: Transaction) -> None:
        handled.set()

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Noted(id="1"))
        await app.drained()
        assert app.consumer.held_up_since() == float("inf")
        handled.clear()
        async with engine.connect():
            async with app.database._own.begin() as connection:
                app.outbox.add(connection, Noted(id="2"))
            while app.consumer.held_up_since() == float("inf"):  # noqa: ASYNC110 - the consumer tells nobody
                await asyncio.sleep(0.01)
            app.database.clock.ahead = 3600.0
            assert not app.health().ready
            assert not handled.is_set()
        await app.drained()
        assert handled.is_set()
        assert app.consumer.held_up_since() == float("inf")
    await app.close()
    await engine.dispose()
