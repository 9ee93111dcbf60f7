"""Several Apps in one test: one clock, one broker, a database for each."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from txpatterns import App, Event, Message, Transaction
from txpatterns.errors import DecodeError
from txpatterns.serialization import CloudEventsStructured
from txpatterns.testing.harness import Txp


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class ParcelSent(Event, topic="parcels", type="parcel.sent", key="order_id"):
    order_id: str


class OrderToSend(Event, topic="orders", type="order.placed", key="order_id"):
    """What the parcels make of ``order.placed``: a class of their own for the same bytes."""

    order_id: str


class Company:
    """Two applications that know each other by their events alone."""

    def __init__(self) -> None:
        self.orders, self.parcels = App("orders"), App("parcels")
        self.fails = 0
        self.orders.on(ParcelSent)(self.close)
        self.parcels.on(OrderToSend)(self.send)

    async def close(self, event: ParcelSent, tx: Transaction) -> None: ...

    async def send(self, event: OrderToSend, tx: Transaction) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionError("no van")
        tx.emit(ParcelSent(order_id=event.order_id))

    async def place(self, order_id: str) -> None:
        async with self.orders.transaction() as session:
            self.orders.outbox.add(session, OrderPlaced(order_id=order_id))


@pytest.fixture
def company() -> Company:
    return Company()


@pytest.fixture
def txp_app(company: Company) -> list[App]:
    return [company.orders, company.parcels]


async def test_a_drain_follows_a_story_through_all_apps(company: Company, txp: Txp):
    """P1, P2, I15: there and back again, each with its own class for the same bytes."""
    await company.place("1")
    await txp.drain()
    txp.assert_published(OrderPlaced, order_id="1", times=1)
    txp.assert_published(OrderToSend, order_id="1", times=1)
    assert txp.published == [OrderPlaced(order_id="1"), ParcelSent(order_id="1")]
    assert txp.handled(company.send) == [OrderToSend(order_id="1")]
    assert txp.handled("orders.close") == [ParcelSent(order_id="1")]


async def test_each_app_has_a_database_of_its_own(company: Company, txp: Txp):
    """P2: what one has handled is no row of the other."""
    await company.place("1")
    await txp.drain()
    for app, consumer in ((company.orders, "orders.close"), (company.parcels, "parcels.send")):
        async with app.session() as session:
            assert (await session.scalars(sa.text("SELECT consumer FROM txp_inbox"))).all() == [consumer]


async def test_time_passes_for_all(company: Company, txp: Txp):
    """P7, H25: the retry of one App is due at its time, and the other goes on from there."""
    company.fails = 1
    await company.place("1")
    await txp.drain()
    txp.assert_not_published(ParcelSent)
    await txp.advance(timedelta(seconds=2))
    assert txp.handled(company.close) == [ParcelSent(order_id="1")]


async def test_a_strangers_event_comes_over_the_broker(company: Company, txp: Txp):
    """P2: no outbox of ours has it; the handler's effect and what it emits are there."""
    await txp.receive(OrderToSend(order_id="7"))
    assert txp.handled(company.send) == [OrderToSend(order_id="7")]
    assert txp.published == [ParcelSent(order_id="7")]


async def test_the_same_id_is_a_redelivery(company: Company, txp: Txp):
    """P2, H43: it comes a second time, and is handled once."""
    first = await txp.receive(OrderToSend(order_id="7"))
    assert await txp.receive(OrderToSend(order_id="7"), id=first) == first
    txp.assert_handled(company.send, order_id="7", times=1)


async def test_a_strangers_bytes_come_as_they_are(company: Company, txp: Txp):
    """P5: the wire form, headers included; what cannot be read is a dead letter, as it would be in production."""
    body = b'{"event_type": "order.placed", "event_id": "e-1", "payload": {"order_id": "7"}}'
    await txp.receive(Message("orders-0-17", "orders", "order.placed", body, "7", {"txp-forged": "1", "trace": "a"}))
    assert txp.handled(company.send) == [OrderToSend(order_id="7")]
    await txp.receive(Message("orders-0-18", "orders", "order.placed", b"\xff", "7"))
    (dead,) = await txp.dead_letters()
    assert (dead.message_id, dead.reason) == ("orders-0-18", "undecodable")


async def test_a_topic_that_nobody_handles_is_told(company: Company, txp: Txp):
    """P1: a test that would prove nothing."""
    with pytest.raises(AssertionError, match="no App here has a handler for the topic 'nobody'"):
        await txp.receive(Message("1", "nobody", "t", b"{}"))


async def test_the_codec_of_the_app_is_that_of_the_test(company: Company, txp: Txp):
    """P5: handled as it would be written and read in production."""
    assert type(company.orders.registry.codec) is type(App("other").registry.codec)


class Notified(Event, topic="notices", type="noticed", key="id"):
    id: str


class TestWithAnotherCodec:
    @pytest.fixture
    def seen(self) -> list[str]:
        return []

    @pytest.fixture
    def txp_app(self, seen: list[str]) -> App:
        app = App("notices")
        app.registry.codec = CloudEventsStructured(source="/notices")

        @app.on(Notified)
        async def see(event: Notified, tx: Transaction) -> None:
            seen.append(tx.message.content_type)

        return app

    async def test_it_writes_and_reads(self, txp: Txp, seen: list[str]):
        """P5, H13: also what a stranger sends."""
        async with txp.app.transaction() as session:
            txp.app.outbox.add(session, Notified(id="1"))
        await txp.drain()
        await txp.receive(Notified(id="2"))
        assert seen == ["application/cloudevents+json"] * 2
        txp.assert_published(Notified, id="1", times=1)

    async def test_another_form_is_not_read(self, txp: Txp):
        """P5: the envelope is no CloudEvent."""
        await txp.receive(Message("1", "notices", "noticed", b'{"payload": {"id": "1"}}'))
        (dead,) = await txp.dead_letters()
        assert dead.reason == "undecodable"
        assert DecodeError.__name__ in dead.error
