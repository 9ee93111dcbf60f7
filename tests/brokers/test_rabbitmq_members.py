"""How the members of a group share its queues."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

from rig.waiting import until
from txpatterns.brokers.rabbitmq import RabbitMQBroker, broker
from txpatterns.brokers.rabbitmq.topology import ranks
from txpatterns.brokers.rabbitmq.wire import SLOTS, slot_of
from txpatterns.testing.conformance import Publishing, Reader, message

QUEUES = 4
SHARES_FROM = 4  # RabbitMQ's release


def one_for_each_slot():
    found, numbers = {}, count()
    while len(found) < SLOTS:
        made = message("orders", f"key-{next(numbers)}")
        found.setdefault(slot_of(made), made)
    return list(found.values())


def highest_of(names):
    """Which member has the highest claim to each of the queues."""
    queues = [f"packing.orders.{QUEUES}.{number}" for number in range(QUEUES)]
    claims = {name: dict(ranks(name, queues)) for name in names}
    return [max(names, key=lambda name: claims[name][queue]) for queue in queues]


class Group:
    """Members that acknowledge what they are given, and note it."""

    def __init__(self, broker):
        self._broker = broker
        self._came = {}

    @asynccontextmanager
    async def member(self, name):
        async with self._broker.subscribe(["orders"], group="packing") as batches:
            reading = asyncio.create_task(self._read(name, Reader(batches)))
            try:
                yield
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self, name, reader):
        while True:
            (delivery,) = await reader.take(1, ack=True)
            self._came[delivery.message.id] = name

    async def readers(self):
        """Who is given what is published: for each queue all whom something of it came to."""
        sent = one_for_each_slot()
        await Publishing(self._broker, sent).confirmed()
        while not all(each.id in self._came for each in sent):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        return [{self._came[each.id] for each in sent if slot_of(each) % QUEUES == queue} for queue in range(QUEUES)]


async def test_members_share_the_queues_from_release_4_on(rabbitmq, monkeypatch):
    """H435: each queue moves to the member with the highest claim, and back when that leaves; 3.x moves none."""
    names = ["member-1", "member-2"]
    monkeypatch.setattr(broker, "new_id", iter(names).__next__)
    shares = int(rabbitmq.server.version.split(".")[0]) >= SHARES_FROM
    owners = highest_of(names) if shares else names[:1] * QUEUES
    assert shares == (len(set(owners)) == 2)
    async with RabbitMQBroker.from_url(rabbitmq.url, partitions=QUEUES) as rabbit, AsyncExitStack() as first:
        group = Group(rabbit)

        async def are(wanted):
            return await group.readers() == [{name} for name in wanted]

        await first.enter_async_context(group.member(names[0]))
        assert await are(names[:1] * QUEUES)
        async with group.member(names[1]):
            await until(lambda: are(owners), "the members to share the queues")
            await first.aclose()
            await until(lambda: are(names[1:] * QUEUES), "the second member to have all of them")
