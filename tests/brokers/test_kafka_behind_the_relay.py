"""What the relay makes of outcomes that only a real Kafka gives, and of a broker that gives none."""

import asyncio
from datetime import timedelta

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic

from brokers.kafka_tools import broker_at, eventually, ids_of, stored
from txpatterns import App, Event
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.retries import FailurePolicies, FailurePolicy, RetryLadder
from txpatterns.transport import Capabilities

IMPATIENT = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=100),) * 1000)))


async def test_a_topic_that_is_made_later_costs_no_message(kafka, tmp_path):
    """P1, P3, H63: what goes to a missing topic waits, other topics do not; when it is made, all arrives in order."""
    topic, late = kafka.create(), f"{kafka.create()}-late"

    class Other(Event, topic=topic, type="other.came", key="key"):
        key: str

    class Late(Event, topic=late, type="late.came", key="key"):
        key: str

    broker = broker_at(kafka.bootstrap)
    app = App("orders", database=f"sqlite+aiosqlite:///{tmp_path}/o.db", broker=broker, policies=IMPATIENT)
    added = []
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with app.running(consume=False):
        for _ in range(5):
            async with app.session() as session, session.begin():
                added.append(app.outbox.add(session, Late(key="k")))
                app.outbox.add(session, Other(key="k"))
        await eventually(lambda: len(set(ids_of(stored(kafka.bootstrap, topic)))) == 5)
        admin.create_topics([NewTopic(late, 1, 1)])[late].result(timeout=30)
        try:
            await eventually(lambda: len(set(ids_of(stored(kafka.bootstrap, late)))) == 5)
            assert list(dict.fromkeys(ids_of(stored(kafka.bootstrap, late)))) == added
        finally:
            admin.delete_topics([late])[late].result(timeout=30)
        assert (
            await app.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(dead_letter_table))) == 0
        )


class Silent(MemoryBroker):
    """Takes everything, and never answers. Its deadline has passed before it begins."""

    def __init__(self):
        super().__init__()
        self.capabilities = Capabilities(deadline=timedelta(days=-1))
        self.asked = 0

    async def publish(self, messages):
        self.asked += 1
        await asyncio.Event().wait()
        yield {}


async def test_a_publication_ends_at_the_deadline_of_the_broker(tmp_path):
    """P7, H60: one that gets no answer is given up and made again; the deadline is the broker's, set once."""
    assert broker_at("nowhere:1", deadline=timedelta(seconds=7)).capabilities.deadline == timedelta(seconds=7)

    class Told(Event, topic="t", type="t.told"):
        pass

    broker = Silent()
    app = App("orders", database=f"sqlite+aiosqlite:///{tmp_path}/o.db", broker=broker)
    async with app.running(consume=False):
        async with app.session() as session, session.begin():
            app.outbox.add(session, Told())
        await eventually(lambda: broker.asked >= 3)
