"""From the outbox through Kafka into the inbox, with several processes; some are killed, and the topic may grow."""

import asyncio
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewPartitions

from brokers.kafka_member import make_app
from brokers.kafka_tools import header, stored
from endtoend.application import BURNT, Base
from txpatterns.database.setup import create_missing

SCRIPT = Path(__file__).with_name("kafka_member.py")
PATIENCE = timedelta(minutes=6)
KEYS, ROUND, ROUNDS = 12, 240, 4
PROTOCOLS = {
    "classic": "consumer.session.timeout.ms=6000",
    "consumer": "consumer.group.protocol=consumer",  # there the time-out is the broker's: 45 s
}

pytestmark = [pytest.mark.timeout(900), pytest.mark.server]


class Run:
    """An application with three processes, of which some die."""

    def __init__(self, database, kafka, child, protocol, partitions):
        self.topic = kafka.create(partitions=partitions)
        refreshed = "topic.metadata.refresh.interval.ms=200"
        self.where = (database, f"kafka://{kafka.bootstrap}?{refreshed}&{PROTOCOLS[protocol]}", self.topic)
        self.kafka = kafka
        self.app, self.event = make_app(*self.where)
        self.child = child
        self.members = []

    async def prepare(self):
        await self.app.database.locate()
        await self.app.database.transact(create_missing)
        await self.app.database.transact(Base.metadata.create_all)
        self.members = [self.child(SCRIPT, *self.where) for _ in range(3)]
        for member in self.members:
            await asyncio.to_thread(member.wait_for, "member runs", within=PATIENCE)

    async def send(self, first):
        for start in range(first, first + ROUND, KEYS):
            async with self.app.transaction() as session:
                for number in range(start, start + KEYS):
                    self.app.outbox.add(session, self.event(name=f"key-{number % KEYS}", number=number))

    async def effects(self):
        query = sa.text("SELECT key, number, message_id FROM effect ORDER BY id")
        return await self.app.database.read(lambda connection: connection.execute(query).all())

    async def until_handled(self, count):
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while len(await self.effects()) < count:  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.05)

    async def lose_one(self, n):
        await asyncio.to_thread(self.members[n].kill9)
        self.members.append(self.child(SCRIPT, *self.where))

    async def end(self):
        await self.until_handled(ROUNDS * ROUND)
        for member in self.members[2:]:
            member.sigterm()
            assert await asyncio.to_thread(member.wait, within=PATIENCE) == 0, member.output
        assert not any(BURNT in line for member in self.members for line in member.lines)
        return await self.effects()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_members_are_killed_and_join_and_nothing_is_lost_doubled_or_inverted(database, kafka, child, protocol):
    """P1, P2, P3, H66: three members by either group protocol; who is killed with what it holds is followed."""
    run = Run(database.url("asyncpg"), kafka, child, protocol, partitions=6)
    await run.prepare()
    async with run.app:
        for n in range(ROUNDS):
            await run.send(n * ROUND)
            await run.until_handled(n * ROUND + 10)
            if n < 2:
                await run.lose_one(n)
        found = defaultdict(list)
        for key, number, _ in await run.end():
            found[key].append(number)
    assert found == {f"key-{k}": list(range(k, ROUNDS * ROUND, KEYS)) for k in range(KEYS)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_topic_that_grows_loses_and_doubles_nothing(database, kafka, child, protocol):
    """P1, P2, P3, H443: while members are killed; the order of a key holds within each partition that it was in."""
    run = Run(database.url("asyncpg"), kafka, child, protocol, partitions=2)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    await run.prepare()
    async with run.app:
        for n in range(ROUNDS):
            await run.send(n * ROUND)
            await run.until_handled(n * ROUND + 10)
            if n < 2:
                await run.lose_one(n)
                grown = admin.create_partitions([NewPartitions(run.topic, 3 * (n + 1))])[run.topic]
                await asyncio.to_thread(grown.result, 120)
        effects = await run.end()
    records = await asyncio.to_thread(stored, kafka.bootstrap, run.topic)
    where = defaultdict(set)  # a relay that was killed may have left a copy in another partition
    for record in records:
        where[header(record, "message-id")].add(record.partition())
    assert max(set().union(*where.values())) > 1  # keys have moved
    assert sorted(number for _, number, _ in effects) == list(range(ROUNDS * ROUND))
    found = defaultdict(list)
    for key, number, message_id in effects:
        if len(where[message_id]) == 1:
            found[key, *where[message_id]].append(number)
    assert all(numbers == sorted(numbers) for numbers in found.values())
