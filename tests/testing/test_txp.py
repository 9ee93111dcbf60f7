"""The fixture `txp`: drains, time, assertions, leaks."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, Transaction
from txpatterns.serialization import CloudEventsStructured
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.hands import in_hand
from txpatterns.testing.harness import Txp
from txpatterns.testing.homes import Homes

CODEC = CloudEventsStructured(source="/shop")


class Base(DeclarativeBase):
    pass


class Slip(Base):
    __tablename__ = "slip"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str
    pieces: int = 1


class OrderPacked(Event, topic="packing", type="order.packed", key="order_id"):
    order_id: str


class Shop:
    """An application as its module would hold it."""

    def __init__(self) -> None:
        url = "sqlite+aiosqlite:///never-made.db"
        self.app = App("shop", url, "memory://", metadata=Base.metadata, codec=CODEC)
        self.refused: set[str] = set()
        self.app.on(OrderPlaced)(self.pack)

    async def pack(self, event: OrderPlaced, tx: Transaction) -> None:
        if event.order_id in self.refused:
            raise ConnectionError("the packer is out")
        tx.session.add(Slip(order_id=event.order_id))
        tx.emit(OrderPacked(order_id=event.order_id))

    async def place(self, order_id: str, *, after: timedelta | None = None) -> None:
        async with self.app.session() as session, session.begin():
            self.app.outbox.add(session, OrderPlaced(order_id=order_id), deliver_after=after)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def txp_app(shop: Shop) -> App:
    return shop.app


async def test_drain_does_everything_that_is_due(shop: Shop, txp: Txp):
    """P1, P2: published, handled, and what the handler emitted is published too."""
    await shop.place("1")
    await txp.drain()
    txp.assert_published(OrderPlaced, order_id="1", times=1)
    txp.assert_published(OrderPacked, order_id="1", times=1)
    assert txp.handled(shop.pack) == [OrderPlaced(order_id="1")]
    async with shop.app.session() as session:
        assert (await session.scalars(sa.select(Slip.order_id))).all() == ["1"]
    assert not os.path.exists("never-made.db")  # noqa: ASYNC240, PTH110 - nobody waits for this test


async def test_the_apps_own_codec_is_used(shop: Shop, txp: Txp):
    """UX: what a test sees has the form of what would be sent."""
    assert shop.app.registry.codec is CODEC
    seen: list[str] = []

    @shop.app.on(OrderPlaced, name="look")
    async def look(event: OrderPlaced, tx: Transaction) -> None:
        seen.append(tx.message.content_type)

    await shop.place("1")
    await txp.drain()
    assert seen == ["application/cloudevents+json"]
    assert txp.handled(shop.pack) == [OrderPlaced(order_id="1")]


async def test_time_passes_only_when_told(shop: Shop, txp: Txp):
    """P1: a scheduled message waits for its time, however long the test takes."""
    await shop.place("1", after=timedelta(minutes=15))
    await txp.drain()
    assert txp.published == []
    await txp.advance(minutes=14)
    assert txp.published == []
    await txp.advance(minutes=2)
    txp.assert_published(OrderPlaced, order_id="1")


async def test_the_whole_ladder_in_no_time(shop: Shop, txp: Txp):
    """P7, H25: every attempt at its time; then a dead letter, and the key goes on."""
    shop.refused.add("1")
    await shop.place("1")
    await txp.drain()
    assert await txp.dead_letters() == []
    await txp.advance(hours=1)
    (dead,) = await txp.dead_letters()
    assert (dead.consumer, dead.key, dead.attempts, dead.reason) == ("shop.pack", "1", 7, "exhausted")
    txp.assert_not_published(OrderPacked)


async def test_a_missing_event_is_explained_by_the_nearest(shop: Shop, txp: Txp):
    """P1: what was published instead, and where it differs."""
    await shop.place("1")
    await txp.drain()
    with pytest.raises(AssertionError) as failed:
        txp.assert_published(OrderPlaced, order_id="1", pieces=2)
    assert "nearest: OrderPlaced(order_id='1', pieces=1)" in str(failed.value)
    assert "pieces: is 1, expected 2" in str(failed.value)
    with pytest.raises(AssertionError, match=r"expected OrderPacked.* 2 times"):
        txp.assert_published(OrderPacked, times=2)


async def test_a_drain_that_cannot_end_says_what_is_left(shop: Shop, txp: Txp):
    """P7: a handler that never returns is a failure with a list, not a hang."""
    for_ever = asyncio.Event()

    @shop.app.on(OrderPacked)
    async def wait(event: OrderPacked, tx: Transaction) -> None:
        await for_ever.wait()

    await shop.place("1")
    with pytest.raises(AssertionError) as failed:
        await txp.drain(within=timedelta(seconds=2))
    assert "waits: outbox: order.packed" in str(failed.value)
    assert "did not end: shop.wait: order.packed" in str(failed.value)


async def test_a_connection_left_open_fails_the_test(shop: Shop, tmp_path: Path):
    """I14: whoever forgets to close a session hears of it."""
    hand = in_hand([shop.app], Homes(tmp_path))
    hand.__enter__()
    session = shop.app.session()
    await session.connection()
    with pytest.raises(AssertionError, match="never given back"):
        hand.__exit__(None, None, None)
    await session.close()


def test_the_app_is_as_before_afterwards(shop: Shop, tmp_path: Path):
    """P7: tests leave no trace in the module's own App."""
    before = dict(shop.app.__dict__)
    with in_hand([shop.app], Homes(tmp_path)):
        assert shop.app.database is not before["database"]
    assert shop.app.__dict__ == before


async def test_a_manual_clock_wakes_in_the_order_of_deadlines():
    """P7: who waits for an earlier time is woken first, and nobody before its time."""
    clock, woken = ManualClock(), []

    async def wait(seconds: int) -> None:
        await clock.wait(asyncio.Event(), timedelta(seconds=seconds))
        woken.append(seconds)

    waiting = [asyncio.ensure_future(wait(seconds)) for seconds in (5, 1, 3, 9)]
    await asyncio.sleep(0)
    assert clock.next_deadline == timedelta(seconds=1)
    clock.advance(timedelta(seconds=6))
    await asyncio.gather(*waiting[:3])
    assert woken == [1, 3, 5]
    assert clock.next_deadline == timedelta(seconds=3)
    with pytest.raises(ValueError, match="back"):
        clock.advance(timedelta(seconds=-1))
    waiting[3].cancel()
