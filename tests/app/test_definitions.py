"""What is defined lasts, and what runs is made anew: handlers are registered once, for every run of an App."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, MemoryBroker, Transaction
from txpatterns.errors import ConfigurationError, HandlerDefinitionError


class Base(DeclarativeBase): ...


class Slip(Base):
    __tablename__ = "slips"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


async def pack(event: Placed, tx: Transaction) -> None:
    tx.session.add(Slip(order_id=event.order_id))


async def handled_in_a_run(app: App, order_id: str) -> list[str]:
    """Send an order while the App runs; gives the orders that have been packed."""
    consumer = app.consumer
    async with app.running():
        assert app.consumer is consumer
        async with app.transaction() as session:
            app.outbox.add(session, Placed(order_id=order_id))
        await app.drained()
        async with app.session() as session:
            packed = list(await session.scalars(sa.select(Slip.order_id).order_by(Slip.order_id)))
    assert app.consumer is consumer
    return packed


def shop(tmp_path) -> App:
    return App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", MemoryBroker(), metadata=Base.metadata)


async def test_the_consumer_of_an_app_stays_the_same_one(tmp_path):
    """P7, H205: over two runs, so that whoever keeps it, keeps the one that runs."""
    app = shop(tmp_path)
    app.consumer.on(Placed)(pack)
    assert await handled_in_a_run(app, "1") == ["1"]
    assert await handled_in_a_run(app, "2") == ["1", "2"]


def test_the_consumer_of_an_app_stays_the_same_one_in_another_event_loop(tmp_path):
    """P7, H205: nothing in it is left from the loop that has ended."""
    app = shop(tmp_path)
    app.on(Placed)(pack)
    consumer = app.consumer
    assert asyncio.run(handled_in_a_run(app, "1")) == ["1"]
    assert asyncio.run(handled_in_a_run(app, "2")) == ["1", "2"]
    assert app.consumer is consumer


async def test_a_handler_that_comes_to_the_consumer_while_its_app_runs_without_any_is_refused(tmp_path):
    """P1, H205: on memory:// the message that it waits for would be gone."""
    app = shop(tmp_path)
    async with app.running():
        with pytest.raises(HandlerDefinitionError, match="pack is registered while shop runs") as refused:
            app.consumer.on(Placed)(pack)
    assert refused.value.code == "TXP-1011"
    app.consumer.on(Placed)(pack)
    assert await handled_in_a_run(app, "1") == ["1"]


def test_the_broker_keeps_messages_for_a_handler_that_came_by_the_consumer(tmp_path):
    """P1, H205: on memory://, whichever of the two it was registered with."""
    app = shop(tmp_path)
    app.consumer.on(Placed)(pack)
    assert app.broker.has_groups


async def test_a_consumer_runs_once_at_a_time(tmp_path):
    """UX: a second run would take the first one's place, and nobody could stop that one."""
    app = shop(tmp_path)
    app.on(Placed)(pack)
    async with app:
        running = asyncio.ensure_future(app.consumer.run())
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.consumer.run()
        app.consumer.stop()
        await running
