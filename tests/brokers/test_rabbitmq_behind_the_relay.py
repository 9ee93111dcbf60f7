"""What the relay makes of a RabbitMQ that answers for some queues alone."""

import asyncio
from datetime import timedelta

import sqlalchemy as sa

from txpatterns import App, Event
from txpatterns.brokers.rabbitmq import RabbitMQBroker
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.retries import FailurePolicies, FailurePolicy, RetryLadder
from txpatterns.testing.conformance import Publishing, Reader, message

IMPATIENT = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=100),) * 3)))


class Quiet(Event, topic="quiet", type="quiet.came", key="key"):
    key: str


class Busy(Event, topic="busy", type="busy.came", key="key"):
    key: str


async def test_a_queue_that_never_confirms_costs_no_message_and_no_order(rabbitmq, own_rabbitmq, tmp_path):
    """P1, P3, P7, H438: 800 messages of its topic wait, another topic's go out, and no attempt is burnt."""
    broker = RabbitMQBroker.from_url(rabbitmq.url, deadline=timedelta(seconds=3))
    for topic in ("quiet", "busy"):
        broker.declare(f"readers-of-{topic}", [topic])
    database = f"sqlite+aiosqlite:///{tmp_path}/o.db"
    quiet, busy = [], []

    async def add(events, ids):
        async with app.session() as session, session.begin():
            ids += [app.outbox.add(session, event) for event in events]

    async with App("orders", database=database, broker=broker, policies=IMPATIENT) as app:
        await Publishing(broker, [message("quiet"), message("busy")]).task  # now their queues are there
        async with app.running(consume=False), broker.subscribe(["busy"], group="readers-of-busy") as batches:
            reader = Reader(batches)
            with rabbitmq.silent("readers-of-quiet.quiet.4.1"):
                for _ in range(10):
                    await add([Quiet(key=str(n)) for n in range(80)], quiet)
                    await add([Busy(key=str(n)) for n in range(10)], busy)
                    await reader.until(busy[-10:])
                async with asyncio.timeout(120):
                    while "quiet" not in app.health().postponed:  # noqa: ASYNC110 - a person looks, too
                        await asyncio.sleep(0.05)
            async with broker.subscribe(["quiet"], group="readers-of-quiet") as others:
                came = await Reader(others).until(quiet)
        lanes = [quiet[n::80] for n in range(80)]
        assert lanes == [[one for one in came if one in set(lane)] for lane in lanes]
        dead = sa.select(sa.func.count()).select_from(dead_letter_table)
        assert await app.database.read(lambda connection: connection.scalar(dead)) == 0
