"""App: one object from a commit to an effect, in the ways it can be made and run."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rig.waiting import wait_until
from txpatterns import (
    App,
    AppSettings,
    Event,
    FailurePolicies,
    FailurePolicy,
    Hooks,
    MemoryBroker,
    Relay,
    RetryLadder,
    SyncTransaction,
    Transaction,
    new_id,
)
from txpatterns.coordination import Leases
from txpatterns.database import Database, engines
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import ConfigurationError, MissingExtra, SchemaError, UnsafeSettings
from txpatterns.hooks import on
from txpatterns.inbox.moments import Handled
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay import RelaySettings
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.outbox.schema import SCOPE
from txpatterns.serialization import CloudEventsStructured
from txpatterns.transport import CONFIRMED, Capabilities

HOUR = timedelta(hours=1)
NO_POLLING = AppSettings(relay=RelaySettings(poll=HOUR))
"""With this, whatever is published soon was woken."""


class Base(DeclarativeBase):
    pass


class Slip(Base):
    __tablename__ = "slips"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class Packed(Event, topic="parcels", type="order.packed", key="order_id"):
    order_id: str


class Told(Hooks):
    """Lets a test wait for a moment of a message's life."""

    def __init__(self):
        self.done = []
        self.news = asyncio.Event()

    @on(Handled)
    def handled(self, moment):
        self.done.append((moment.consumer, moment.message.type))
        self.news.set()

    async def wait(self, count):
        while len(self.done) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 120)


def packing(app):
    """Register the handler that writes a slip and tells of it."""

    @app.on(Placed)
    async def pack(event: Placed, tx: Transaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))
        tx.emit(Packed(order_id=event.order_id))


async def make_tables(url):
    """What a user's migrations do on PostgreSQL."""
    mine = sa.MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(mine)
    app = App("tables", url, metadata=mine)
    await app.database.transact(mine.create_all)
    await app.close()


async def slips(app):
    return await app.database.read(lambda c: set(c.scalars(sa.select(Slip.order_id))))


async def test_from_commit_to_effect(any_database):
    """P1, P2: the README's path on each database and driver; what rolls back is neither sent nor handled."""
    await make_tables(any_database)
    app = App("shop", any_database, "memory://")
    packing(app)
    async with app.running():
        order = new_id()
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=order))
        async with app.session() as session:
            app.outbox.add(session, Placed(order_id=new_id()))
            await session.rollback()
        await app.drained()
        assert await slips(app) == {order}
        assert app.health().ready


async def test_a_plain_engine_and_a_plain_handler(sync_database):
    """P2: no async driver anywhere: a `def` handler in a thread, a plain session."""
    await make_tables(sync_database)
    engine = sa.create_engine(sync_database)
    engines.prepare(engine)
    app = App("shop", engine, "memory://")

    @app.on(Placed)
    def pack(event: Placed, tx: SyncTransaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))

    with pytest.raises(ConfigurationError, match="sync_session"):
        app.session()
    order = new_id()
    async with app.running():
        with app.sync_session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=order))
        await app.drained()
        assert await slips(app) == {order}
    engine.dispose()


async def test_a_plain_session_beside_an_async_one(any_database):
    """P1: one App serves both worlds; the plain driver of the same database is found."""
    await make_tables(any_database)
    told = Told()
    app = App("shop", any_database, "memory://", settings=NO_POLLING, hooks=[told])
    packing(app)
    order = new_id()

    def place():
        with app.sync_session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=order))

    async with app.running():
        await app.drained()
        await asyncio.to_thread(place)  # another thread, another engine: the relay is woken all the same
        await told.wait(1)
        assert await slips(app) == {order}


async def test_a_commit_wakes_the_relay_at_once(any_database):
    """H34: with polling an hour away a message goes out because its commit woke the relay."""
    await make_tables(any_database)
    told = Told()
    app = App("shop", any_database, "memory://", settings=NO_POLLING, hooks=[told])
    packing(app)
    async with app.running():
        await app.drained()
        for count in range(1, 4):
            async with app.session() as session, session.begin():
                app.outbox.add(session, Placed(order_id=new_id()))
            await told.wait(count)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_handler_that_hangs_with_sqlites_one_lock_does_not_hold_up_the_stop(tmp_path, kind):
    """P7, H37, H203: the relay stops first and cannot write; its lease ends by itself, and the message is kept."""
    path, begun, over = tmp_path / "app.db", asyncio.Event(), threading.Event()
    limit = timedelta(milliseconds=100)
    settings = AppSettings(stop_within=limit, consumer=ConsumerSettings(stop_within=limit))
    app, loop = App("shop", f"sqlite+aiosqlite:///{path}", settings=settings), asyncio.get_running_loop()

    async def hangs(event: Placed, tx: Transaction) -> None:
        begun.set()
        await asyncio.Event().wait()

    def plain_hangs(event: Placed, tx: SyncTransaction) -> None:
        loop.call_soon_threadsafe(begun.set)
        over.wait(60)

    app.on(Placed)(hangs if kind == "async" else plain_hangs)

    async def run() -> None:
        async with app.running():
            async with app.transaction() as session:
                app.outbox.add(session, Placed(order_id=new_id()))
            await begun.wait()

    try:
        await asyncio.wait_for(run(), 120)
    finally:
        over.set()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM txp_outbox").fetchone() == (1,)


@pytest.mark.parametrize("whose", ["its own", "of another relay"])
async def test_whoever_waits_for_drained_hears_of_the_stop(tmp_path, monkeypatch, whose):
    """H142: a message that is never confirmed, and the App stops: an error of ours, not a cancellation."""
    broker = MemoryBroker()
    broker.declare("nobody", ["orders"])
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    app = App("shop", url, broker, settings=AppSettings(stop_within=timedelta(milliseconds=100)))
    looked, what, place = asyncio.Event(), *((Relay, "drained") if whose == "its own" else (OutboxStore, "left"))
    real = getattr(what, place)

    async def looks(self):
        looked.set()
        return await real(self)

    monkeypatch.setattr(what, place, looks)
    if whose == "of another relay":
        await app.prepare()
        other = Leases(app.database, SCOPE, slots=BUCKETS, ttl=timedelta(hours=1))
        await other.join()
        await other.acquire(1)
    async with app.running():
        async with app.transaction() as session:
            app.outbox.add(session, Placed(order_id=new_id()))
        waiting = asyncio.create_task(app.drained())
        await looked.wait()
    with pytest.raises(ConfigurationError, match="relay"):
        await asyncio.wait_for(waiting, 120)
    await app.close()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_commit_elsewhere_wakes_the_relay(database, driver):
    """H10, H34: the writer knows of no relay; NOTIFY after its commit reaches the one that runs."""
    url = database.url(driver)
    await make_tables(url)
    told = Told()
    running = App("shop", url, "memory://", settings=NO_POLLING, hooks=[told])
    packing(running)
    writer = App("shop", url, "memory://")
    async with running.running():
        await running.drained()
        while len(told.done) < 1:  # the LISTEN may come a moment after the first of them
            async with writer.session() as session, session.begin():
                writer.outbox.add(session, Placed(order_id=new_id()))
            told.news.clear()
            try:
                await asyncio.wait_for(told.news.wait(), 0.5)
            except TimeoutError:
                continue
    await writer.close()


async def test_a_failing_wake_up_is_not_the_callers_business(any_database, monkeypatch, caplog):
    """H1, H11: the commit stands, the caller sees nothing of it, and the message is found by polling."""
    await make_tables(any_database)
    told = Told()
    app = App("shop", any_database, "memory://", hooks=[told])
    packing(app)

    def broken(_self):
        raise OSError("no wake-ups today")

    monkeypatch.setattr(Relay, "wake", broken)
    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=new_id()))
        await told.wait(1)
    assert "found by polling" in caplog.text


async def test_apps_of_one_process_share_a_broker(tmp_path):
    """P1, P2: two services, two databases, one MemoryBroker; started one after the other, nothing is missed."""
    broker, told = MemoryBroker(), Told()
    orders = App("orders", f"sqlite+aiosqlite:///{tmp_path}/orders.db", broker, metadata=_copy())
    parcels = App("parcels", f"sqlite+aiosqlite:///{tmp_path}/parcels.db", broker, metadata=_copy(), hooks=[told])
    packing(orders)

    @parcels.on(Packed)
    async def send(event: Packed, tx: Transaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))

    order = new_id()
    async with orders, orders.session() as session, session.begin():
        orders.outbox.add(session, Placed(order_id=order))
    async with orders.running(), parcels.running():
        await told.wait(1)
        assert await slips(parcels) == {order}


async def test_a_group_that_is_not_there_yet_misses_nothing(tmp_path):
    """P1: declared is what counts; the relay keeps what a declared group has not acknowledged."""
    broker, told = MemoryBroker(), Told()
    orders = App("orders", f"sqlite+aiosqlite:///{tmp_path}/orders.db", broker, metadata=_copy())
    parcels = App("parcels", f"sqlite+aiosqlite:///{tmp_path}/parcels.db", broker, metadata=_copy(), hooks=[told])

    @parcels.on(Placed)
    async def send(event: Placed, tx: Transaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))

    order = new_id()
    async with orders.running(), orders.session() as session, session.begin():
        orders.outbox.add(session, Placed(order_id=order))
    async with orders.running(), parcels.running():
        await told.wait(1)
        assert await slips(parcels) == {order}


def _copy():
    mine = sa.MetaData()
    Slip.__table__.to_metadata(mine)
    return mine


async def test_a_relay_alone_on_the_broker_in_the_process_is_refused(tmp_path):
    """P1: it would confirm to itself what nobody has handled."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://")
    with pytest.raises(UnsafeSettings, match="must also handle"):
        async with app.running(consume=False):
            pytest.fail("it ran")


async def test_running_twice_is_refused_and_again_is_fine(tmp_path):
    """H143: two supervisors for the same parts would fight; one after the other works, in other loops, too."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://", metadata=_copy())
    packing(app)
    async with app.running():
        with pytest.raises(ConfigurationError, match="runs already"):
            async with app.running():
                pytest.fail("it ran")

    async def place_and_run():
        async with app.running():
            async with app.session() as session, session.begin():
                app.outbox.add(session, Placed(order_id=new_id()))
            await app.drained()

    for count in (1, 2):
        await asyncio.to_thread(asyncio.run, place_and_run())
        async with app:
            assert len(await slips(app)) == count


async def test_missing_tables_are_refused_before_anything_starts(database):
    """H100: elsewhere than on SQLite the tables come by a command, and the error names it."""
    app = App("shop", database.url("asyncpg"), "memory://")
    with pytest.raises(SchemaError, match="txp db upgrade"):
        async with app.running():
            pytest.fail("it ran")


def test_the_environment_fills_what_the_constructor_leaves_out(monkeypatch, tmp_path):
    """One file for every stage: the constructor wins, then the environment, then a file and the process itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TXP_DATABASE_URL", "sqlite+aiosqlite:///from-environment.db")
    monkeypatch.setenv("TXP_RELAY_BATCH", "7")
    app = App("shop")
    assert app.sources == {"database": "environment", "broker": "default"}
    assert "from-environment.db" in repr(app)
    assert app.settings.relay.batch == 7
    assert App("shop", "sqlite+aiosqlite:///mine.db").sources["database"] == "constructor"
    monkeypatch.delenv("TXP_DATABASE_URL")
    assert "shop.db" in repr(App("shop"))


def test_no_secret_in_what_is_printed(monkeypatch):
    """H151: repr of an App, its settings and its errors can be pasted anywhere."""
    secret = "hunter2"
    monkeypatch.setenv("TXP_LISTEN_URL", f"postgresql://u:{secret}@h/x")
    app = App("shop", f"postgresql+asyncpg://u:{secret}@h/x", "memory://")
    assert secret not in f"{app!r} {app.settings!r} {app.database!r}"
    monkeypatch.setenv("TXP_STOP_WITHIN", secret)
    with pytest.raises(ConfigurationError):
        AppSettings.from_environment()


async def test_policies_reach_the_handlers(any_database):
    """H24: one word about a topic holds for sending and for handling."""
    await make_tables(any_database)
    died = asyncio.Event()

    class Deaths(Hooks):
        @on(Dead)
        def dead(self, moment):
            died.set()

    ladder = RetryLadder((timedelta(milliseconds=1),))
    policies = FailurePolicies(topics={"orders": FailurePolicy(ladder=ladder)})
    app = App("shop", any_database, "memory://", policies=policies, hooks=[Deaths()])

    @app.on(Placed)
    async def never(event: Placed, tx: Transaction) -> None:
        raise ValueError("no")

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=new_id()))
        await asyncio.wait_for(died.wait(), 120)


async def test_an_old_version_is_read_through_the_upcaster(tmp_path):
    """P1: what was added by last year's class is handled by today's."""
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"

    class Old(Event, topic="orders", type="order.moved", key="number", version="1.0"):
        number: str

    class New(Event, topic="orders", type="order.moved", key="order_id", version="2.0"):
        order_id: str

    async with App("shop", url, metadata=_copy()) as before, before.session() as session, session.begin():
        before.outbox.add(session, Old(number="7"))
    app = App("shop", url, metadata=_copy())

    @app.upcast(New, from_version="1.0", to_version="2.0")
    def rename(fields):
        return {"order_id": fields["number"]}

    @app.on(New)
    async def pack(event: New, tx: Transaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))

    async with app.running():
        await app.drained()
        assert await slips(app) == {"7"}


async def test_a_database_object_and_an_engine_serve_as_well(tmp_path):
    """What exists already is used as it is."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    engines.prepare(engine.sync_engine)
    for given in (engine, Database(engine)):
        app = App("shop", given, metadata=_copy())
        async with app, app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id=new_id()))
    await engine.dispose()


def test_a_worker_serves_a_program_without_a_loop(tmp_path):
    """P1: a WSGI application commits in its own threads; the worker's thread publishes and handles."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", metadata=_copy())
    done = threading.Event()

    @app.on(Placed)
    def pack(event: Placed, tx: SyncTransaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))
        done.set()

    with app.worker().in_thread() as worker:
        with pytest.raises(ConfigurationError, match="runs already"):
            worker.start()
        with app.sync_session() as session, session.begin():
            app.outbox.add(session, Placed(order_id="7"))
        assert done.wait(120)
    with app.sync_session() as session:
        wait_until(lambda: session.scalars(sa.select(Slip.order_id)).all() == ["7"], what="the slip")
        session.get_bind().dispose()


def test_what_fails_in_the_workers_start_is_raised_there(database):
    """H143: a thread that could not start must not look as if it had."""
    app = App("shop", database.url("asyncpg"), "memory://")
    with pytest.raises(SchemaError), app.worker().in_thread():
        pytest.fail("it ran")


def test_a_broker_without_its_driver_is_named(monkeypatch):
    """H147: the error has the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    for name in [name for name in __import__("sys").modules if name.startswith("txpatterns.brokers.kafka")]:
        monkeypatch.delitem(__import__("sys").modules, name)
    with pytest.raises(MissingExtra, match=r"pip install 'txpatterns\[kafka\]'"):
        App("shop", "sqlite+aiosqlite:///a.db", "kafka://localhost:9092")


async def test_a_transaction_that_reads_first_can_write_on_sqlite(tmp_path):
    """H93: between its read and its write somebody else writes; a plain session would be told "locked"."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", metadata=_copy())
    async with app:
        first_read, written = asyncio.Event(), asyncio.Event()

        async def read_then_write():
            async with app.transaction() as session:
                await session.get(Slip, "8")
                first_read.set()
                session.add(Slip(order_id="7"))
                app.outbox.add(session, Placed(order_id="7"))

        async def write():
            await first_read.wait()
            async with app.transaction() as session:
                session.add(Slip(order_id="8"))
            written.set()

        await asyncio.gather(read_then_write(), write())
        assert await slips(app) == {"7", "8"}
        with app.sync_transaction() as session:
            assert session.get(Slip, "8")
            app.outbox.add(session, Placed(order_id="8"))


async def test_an_emit_only_transaction_does_not_trip_over_the_relay(tmp_path):
    """H93: the look at whose database this is takes the writer's place, so nobody writes between it and the INSERT."""
    tried = []

    def write_in_between(_connection, _cursor, statement, *_rest):
        if statement.startswith("INSERT INTO txp_outbox"):
            with closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as somebody:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    somebody.execute("DELETE FROM txp_member")
                tried.append(statement)

    async with App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", metadata=_copy()) as app:
        sa.event.listen(app.database.engine.sync_engine, "before_cursor_execute", write_in_between)
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id="1"))
    assert len(tried) == 1


# ---------------------------------------------------------------------- the codec


async def test_an_app_is_given_its_codec(tmp_path):
    """UX: what it sends has that form, and what it receives is read so."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    app = App("t", url, "memory://", metadata=Base.metadata, codec=CloudEventsStructured(source="/orders"))
    came = asyncio.Event()

    @app.on(Placed)
    async def pack(event: Placed, tx: Transaction) -> None:
        assert (event.order_id, tx.message.content_type) == ("7", "application/cloudevents+json")
        came.set()

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id="7"))
        await asyncio.wait_for(came.wait(), 120)


@pytest.mark.parametrize("codec", [CloudEventsStructured, "raw", object()])
def test_what_is_no_codec_is_refused(tmp_path, codec):
    """UX: told by the constructor, and not by the first message."""
    with pytest.raises(ConfigurationError, match="is no codec"):
        App("t", f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", "memory://", codec=codec)


def test_a_misspelt_argument_is_refused():
    """UX: as of any other function."""
    with pytest.raises(TypeError, match=r"unexpected keyword arguments?: .*codek"):
        App("t", codek=None)


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_what_is_no_name_of_an_application_is_refused(name):
    """P7: an empty group is everybody's on some brokers."""
    with pytest.raises(ConfigurationError, match="names no application"):
        App(name, broker="memory://")


@pytest.mark.parametrize("broker", [3, object(), MemoryBroker])
def test_what_is_no_broker_is_refused(tmp_path, broker):
    """P7: where it is given, not where the first message is published."""
    with pytest.raises(ConfigurationError, match="is no broker"):
        App("t", f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", broker)


@pytest.mark.parametrize("name", ["", "/:memory:"])
def test_a_database_in_memory_is_refused(name):
    """H229: the library's own connections would find another database, empty, than the application's."""
    with pytest.raises(ConfigurationError, match=r"is in memory.*Name a file"):
        App("t", f"sqlite+aiosqlite://{name}", "memory://")


async def test_a_broker_that_needs_no_declaration(tmp_path):
    """P1: an adapter without ``declare``, which those of earlier forms have not, is used like any other."""

    class Plain:
        capabilities = Capabilities()

        def __init__(self):
            self.sent = []

        async def __aenter__(self):
            return self

        async def __aexit__(self, *exception):
            return None

        async def publish(self, messages):
            self.sent += [message.key for message in messages]
            yield {message.id: CONFIRMED for message in messages}

        def subscribe(self, topics, *, group):
            raise NotImplementedError

    broker = Plain()
    app = App("plain", f"sqlite+aiosqlite:///{tmp_path}/plain.db", broker)

    @app.on(Placed)
    async def placed(event: Placed, tx: Transaction) -> None: ...

    async with app.running(consume=False):
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id="7"))
        await app.drained()
    assert broker.sent == ["7"]
