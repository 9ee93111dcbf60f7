"""What nobody would notice is told: handlers that are not there, or that cannot run; sessions that are over."""

import asyncio
import threading
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from inbox.support import LONG, eventually
from rig.planting import instead_of
from rig.ports import free_port
from txpatterns import App, Event, Hooks, MemoryBroker, SyncTransaction, Transaction
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import HandlerDefinitionError
from txpatterns.hooks import on
from txpatterns.inbox import ConsumerSettings
from txpatterns.inbox.attempts import Attempts
from txpatterns.runtime.moments import CONSUMER, Idle
from txpatterns.settings import AppSettings
from txpatterns.testing.clock import ManualClock


class Base(DeclarativeBase): ...


class Slip(Base):
    __tablename__ = "slips"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class Packed(Event, topic="parcels", type="order.packed", key="order_id"):
    order_id: str


async def pack(event: Placed, tx: Transaction) -> None:
    tx.session.add(Slip(order_id=event.order_id))


async def later(event: Packed, tx: Transaction) -> None:
    raise AssertionError("never")


def shop(tmp_path, broker="memory://", **options):
    return App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", broker, metadata=Base.metadata, **options)


@pytest.mark.parametrize("before", [[], [Placed]])
async def test_a_handler_that_comes_while_the_app_runs_is_refused(tmp_path, before):
    """P7, H205: it would receive nothing, and on memory:// what is sent to it would wait for ever."""
    broker = MemoryBroker()
    app = shop(tmp_path, broker)
    for event in before:
        app.on(event)(pack)
    async with app.running():
        with pytest.raises(HandlerDefinitionError, match="later is registered while shop runs"):
            app.on(Packed)(later)
        async with app.transaction() as session:
            app.outbox.add(session, Packed(order_id="1"))
        await app.drained()
    assert [handler.event for handler in app.consumer.handlers] == before
    app.on(Packed)(later)  # before the next start
    async with app.running(consume=False, relay=False):
        app.on(Packed, name="again")(later)


async def test_a_consumer_by_itself_refuses_it_too(tmp_path):
    """P7, H205: without App."""
    app = shop(tmp_path)
    app.on(Placed)(pack)
    consumer = app.consumer
    async with app.running():
        await eventually(lambda: app.consumer._runs)
        with pytest.raises(HandlerDefinitionError, match="later is registered while shop runs"):
            app.consumer.on(Packed)(later)
    consumer.on(Packed)(later)


async def test_a_handler_that_does_not_fit_declares_nothing(tmp_path):
    """P7, H205: nobody would read for it."""
    broker = MemoryBroker()
    app = shop(tmp_path, broker)
    with pytest.raises(HandlerDefinitionError):
        app.on(Placed)(later)
    with pytest.raises(HandlerDefinitionError, match="one event class"):
        app.on(Placed | Packed)(later)
    assert not broker.has_groups


async def test_an_app_without_handlers_says_so_on_memory(tmp_path, caplog):
    """P1, H205: what it sends there is gone; and each topic that nobody reads is named once."""
    app = shop(tmp_path)
    async with app.running():
        for number in range(2):
            async with app.transaction() as session:
                app.outbox.add(session, Placed(order_id=str(number)))
            await app.drained()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(":")[0] for line in told] == [
        "nobody reads memory",
        "nobody in this process reads orders",
    ]
    assert "import their modules" in told[0]


async def test_an_app_with_handlers_says_nothing(tmp_path, caplog):
    """UX: no warning where nothing is wrong."""
    app = shop(tmp_path)
    app.on(Placed)(pack)
    async with app.running():
        async with app.transaction() as session:
            app.outbox.add(session, Placed(order_id="1"))
        await app.drained()
        assert app.health().parts[0].attention == ()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


async def test_handlers_that_cannot_reach_their_database_are_no_progress(tmp_path, caplog, monkeypatch):
    """P7, H143, H205: only the driver of `def` handlers fails, all else works: not ready, and it is said why."""
    clock = ManualClock()
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    app = App("shop", Database(url, clock=clock), MemoryBroker())
    nowhere = sa.create_engine(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nowhere")
    monkeypatch.setattr(Database, "sync_engine", nowhere)

    @app.on(Placed)
    def plain(event: Placed, tx: SyncTransaction) -> None:
        raise AssertionError("never")

    @app.on(Packed)
    async def fine(event: Packed, tx: Transaction) -> None: ...

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Placed(order_id="1"))
        await eventually(lambda: "def handlers pauses" in caplog.text)
        assert app.health().ready
        clock.advance(timedelta(seconds=61))
        consumer = next(part for part in app.health().parts if part.name == "consumer")
        assert not app.health().ready
        assert app.health().alive
        assert consumer.attention == ("shop: def handlers waits: OperationalError",)
        assert consumer.quiet_for >= timedelta(seconds=61)
    nowhere.dispose()


class Signs(Hooks):
    """What the consumer gave as signs of life."""

    def __init__(self):
        self.seen = []

    @on(Idle)
    def idle(self, moment):
        self.seen.append(moment.part)

    async def after(self, clock, by):
        """Let time pass, and then a little more until the next sign: it may be waited for in two parts."""
        clock.advance(by)
        self.seen.clear()
        while CONSUMER not in self.seen:
            clock.advance(timedelta(seconds=1))
            await asyncio.sleep(0.005)


async def publish(app, event):
    """Send one without a relay, which would lose its lease when the clock is moved; ends when it is handled."""
    async with app.session() as session, session.begin():
        app.outbox.add(session, event)
        messages = app.outbox.pending(session)
        await session.rollback()
    async for _ in app.broker.publish(messages):
        pass


def consumer_of(app):
    return next(part for part in app.health().parts if part.name == CONSUMER)


async def test_a_consumer_whose_places_are_all_taken_for_ever_is_not_ready(database):
    """P7, H143, H307: it looks for what is due as ever, and says that there is nothing; no message is handled."""
    clock, signs = ManualClock(), Signs()
    settings = AppSettings(consumer=ConsumerSettings(concurrency=2))
    app = App("shop", Database(database.url(), clock=clock), MemoryBroker(), hooks=[signs], settings=settings)
    await app.database.transact(create_missing)
    began, go = [], threading.Event()

    @app.on(Placed, timeout=timedelta(minutes=2))
    def hangs(event: Placed, tx: SyncTransaction) -> None:
        began.append(event)
        go.wait(LONG)

    @app.on(Packed, timeout=timedelta(minutes=6))
    def takes_its_time(event: Packed, tx: SyncTransaction) -> None:
        began.append(event)
        go.wait(LONG)

    async with app.running(relay=False), AsyncExitStack() as stack:
        stack.callback(go.set)
        sent = [asyncio.create_task(publish(app, event)) for event in (Placed(order_id="1"), Packed(order_id="2"))]
        await eventually(lambda: len(began) == 2)
        await signs.after(clock, timedelta(minutes=4))
        assert app.health().ready  # one of them may take as long as that
        await signs.after(clock, timedelta(minutes=4))
        assert (app.health().alive, app.health().ready) == (True, False)
        assert consumer_of(app).quiet_for >= timedelta(minutes=2)
        assert len(consumer_of(app).attention) == 2
        go.set()
        await asyncio.gather(*sent)
        assert app.health().ready
    await app.close()


async def test_a_consumer_that_cannot_look_for_what_is_due_is_not_ready(tmp_path, monkeypatch, caplog):
    """P7, H143, H307: messages come and are handled, and those that failed wait for ever."""
    clock = ManualClock()
    app = App("shop", Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", clock=clock), MemoryBroker())
    handled = []

    @app.on(Placed)
    async def fine(event: Placed, tx: Transaction) -> None:
        handled.append(event.order_id)

    @instead_of(monkeypatch, Attempts, Attempts.until_due)
    def fails(self, connection, consumers, within):
        raise PermissionError("no SELECT on txp_inbox_waiting")

    async with app.running(relay=False):
        await eventually(lambda: "shop pauses: PermissionError" in caplog.text)
        assert app.health().ready
        clock.advance(timedelta(seconds=61))
        await publish(app, Placed(order_id="1"))
        assert handled
        assert consumer_of(app).attention == ("shop waits: PermissionError",)
        assert (app.health().alive, app.health().ready) == (True, False)
    await app.close()


async def test_the_sessions_of_an_app_are_over_when_they_are_closed(tmp_path):
    """P1, H202: a task that was left with one gets an error, in each of the ways to have one."""
    app = shop(tmp_path)
    left = []
    async with app:
        async with app.session() as session, session.begin():
            left.append(session)
        async with app.transaction() as session:
            left.append(session)
        with app.sync_session() as plain, plain.begin():
            left.append(plain)
        with app.sync_transaction() as plain:
            left.append(plain)
        for session in left:
            with pytest.raises(InvalidRequestError, match="permanently closed"):
                session.add(Slip(order_id="1"))
            with pytest.raises(InvalidRequestError, match="permanently closed"):
                app.outbox.add(session, Placed(order_id="1"))
        async with app.session(close_resets_only=True) as session:
            await session.close()
            assert await session.scalar(sa.text("SELECT 1")) == 1  # who wants it as it was, says so
    await asyncio.sleep(0)
