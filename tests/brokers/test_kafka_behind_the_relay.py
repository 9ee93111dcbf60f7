"""What the relay makes of outcomes that only a real Kafka gives, and of a broker that gives none."""

import asyncio
from datetime import timedelta

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic

from brokers.kafka_tools import broker_at, eventually, ids_of, stored
from txpatterns import App, Event, Hooks
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.hooks import on
from txpatterns.outbox.moments import TopicPostponed, TopicResumed
from txpatterns.outbox.schema import outbox_table
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
        admin.create_topics([NewTopic(late, 1, 1)])[late].result(timeout=120)
        try:
            await eventually(lambda: len(set(ids_of(stored(kafka.bootstrap, late)))) == 5)
            assert list(dict.fromkeys(ids_of(stored(kafka.bootstrap, late)))) == added
        finally:
            admin.delete_topics([late])[late].result(timeout=120)
        assert (
            await app.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(dead_letter_table))) == 0
        )
    await app.close()


class Told(Hooks):
    def __init__(self):
        self.topics = []

    @on(TopicPostponed)
    def topic_postponed(self, moment):
        self.topics.append(moment.topic)

    @on(TopicResumed)
    def topic_resumed(self, moment):
        self.topics.append(f"{moment.topic} flows")


async def test_a_partition_without_a_leader_holds_up_its_topic_alone(second_kafka, tmp_path):
    """P1, P3, P7, H26, H59, H192: ten keys wait for it; another topic's messages go out, and no attempt is burnt."""
    first, told, waiting, good = second_kafka.first, Told(), [], []
    headless, topic = second_kafka.topic_of(second_kafka, "headless"), second_kafka.topic_of(first, "good")

    class Good(Event, topic=topic, type="good", key="key"):
        key: str

    class Headless(Event, topic=headless, type="headless", key="key"):
        key: str

    broker = broker_at(first.bootstrap)
    database = f"sqlite+aiosqlite:///{tmp_path}/o.db"
    app = App("orders", database=database, broker=broker, policies=IMPATIENT, hooks=[told])

    async def add(events, ids):
        async with app.session() as session, session.begin():
            ids += [app.outbox.add(session, event) for event in events]

    async with app.running(consume=False):
        await add([Headless(key="0")], waiting)
        await eventually(lambda: ids_of(stored(first.bootstrap, headless)) == waiting)
        second_kafka.kill()
        for _ in range(18):
            await add([Headless(key=str(n)) for n in range(10)], waiting)
            await add([Good(key=str(n)) for n in range(10)], good)
        await eventually(lambda: set(ids_of(stored(first.bootstrap, topic))) >= set(good))
        await eventually(lambda: told.topics == [headless])
        second_kafka.heal()
        await eventually(lambda: set(ids_of(stored(first.bootstrap, headless))) >= set(waiting))
        await eventually(lambda: told.topics == [headless, f"{headless} flows"])
    found = list(dict.fromkeys(ids_of(stored(first.bootstrap, headless))))
    lanes = [[waiting[0], *waiting[1::10]], *(waiting[1 + n :: 10] for n in range(1, 10))]
    assert lanes == [[one for one in found if one in set(lane)] for lane in lanes]
    dead = sa.select(sa.func.count()).select_from(dead_letter_table)
    assert await app.database.read(lambda connection: connection.scalar(dead)) == 0
    await app.close()


async def test_what_has_no_answer_at_the_stop_is_kept(kafka, own_kafka, tmp_path):
    """P1, P3, H37, H308: confirmed and settled, or in the table still; the next start sends it, in its order."""
    topic, database = kafka.create(), f"sqlite+aiosqlite:///{tmp_path}/o.db"

    class Counted(Event, topic=topic, type="counted", key="key"):
        key: str

    async def add(app):
        async with app.session() as session, session.begin():
            return [app.outbox.add(session, Counted(key="k")) for _ in range(50)]

    async with App("orders", database=database, broker=broker_at(kafka.bootstrap)) as app:
        async with app.running(consume=False):
            confirmed = await add(app)
            await app.drained()
            own_kafka.pause()
            unanswered = await add(app)
            await eventually(lambda: [len(one._producer) for one in app.broker._publisher._channels] == [50])
        left = await app.database.read(lambda c: list(c.scalars(sa.select(outbox_table.c.message_id))))
        assert sorted(left) == sorted(unanswered)
    own_kafka.resume()
    async with App("orders", database=database, broker=broker_at(kafka.bootstrap)) as app, app.running(consume=False):
        await app.drained()
    found = await asyncio.to_thread(lambda: ids_of(stored(kafka.bootstrap, topic)))
    assert list(dict.fromkeys(found)) == [*confirmed, *unanswered]


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
    await app.close()
