"""What RabbitMQ does to us, and what becomes of the messages then: on a real server."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import pytest

from rig.planting import instead_of
from txpatterns.brokers.rabbitmq import RabbitMQBroker
from txpatterns.brokers.rabbitmq.link import Link
from txpatterns.brokers.rabbitmq.wire import slot_of
from txpatterns.errors import BrokerUnavailable, ConfigurationError
from txpatterns.findings import Severity
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.conformance import Publishing, Reader, message
from txpatterns.transport import Verdict

CONFIRMED, POSTPONED, UNKNOWN = Verdict.CONFIRMED, Verdict.POSTPONED, Verdict.UNKNOWN


def broker_at(rabbitmq, **options):
    return RabbitMQBroker.from_url(rabbitmq.url, **options)


async def eventually(verdicts, broker, messages):
    async with asyncio.timeout(120):
        while await Publishing(broker, messages).verdicts() != verdicts:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


@asynccontextmanager
async def alarm(server):
    """In a thread: the operator's command takes seconds, in which the members have to answer heartbeats."""
    raised = server.alarm()
    await asyncio.to_thread(raised.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(raised.__exit__, None, None, None)


async def test_healthy_messages_outlive_many_crashes(rabbitmq):
    """H400: a member that dies 25 times with ten messages in its hands loses none of them, and no order."""
    sent = [message("orders", "key") for _ in range(10)]
    async with broker_at(rabbitmq) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        for death in range(26):
            async with broker.subscribe(["orders"], group="packing") as batches:
                taken = await Reader(batches).take(10, ack=death == 25)
                assert [each.message.id for each in taken] == [each.id for each in sent]
                assert all(each.redelivered for each in taken) == (death > 0)


async def test_a_member_that_leaves_gives_back_before_the_next_one_begins(rabbitmq):
    """H401, H402: what a member holds comes first to the next, however often that happens."""
    sent = [message("orders", "key") for _ in range(300)]
    wanted = [each.id for each in sent]
    async with broker_at(rabbitmq) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        for held in (200, 5, 200, 5):
            async with broker.subscribe(["orders"], group="packing") as batches:
                taken = await Reader(batches).take(held, ack=False)
                assert [each.message.id for each in taken] == wanted[:held]
        async with broker.subscribe(["orders"], group="packing") as batches:
            assert await Reader(batches).until(wanted) == wanted


async def test_a_member_that_waits_gets_nothing_before_what_the_other_gives_back(rabbitmq):
    """H402: there is more in the queue than a member holds, and another waits for it when the first one leaves."""
    sent = [message("orders", "key") for _ in range(300)]
    wanted = [each.id for each in sent]
    async with broker_at(rabbitmq, partitions=1) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        async with AsyncExitStack() as first:
            held = await first.enter_async_context(broker.subscribe(["orders"], group="packing"))
            await Reader(held).take(200, ack=False)
            async with broker.subscribe(["orders"], group="packing") as batches:
                await first.aclose()
                assert await Reader(batches).until(wanted) == wanted


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_server_that_is_killed_just_after_a_queue_was_made_loses_nothing(rabbitmq, own_rabbitmq, partitions):
    """H432, P1: the first message of a new group is confirmed, and at once the server is killed."""
    sent = [message("orders", f"key-{n}") for n in range(20)]
    async with broker_at(rabbitmq, partitions=partitions) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        own_rabbitmq.kill()
        own_rabbitmq.start()
        async with broker.subscribe(["orders"], group="packing") as batches:
            assert sorted(await Reader(batches).until(each.id for each in sent)) == sorted(each.id for each in sent)


async def test_a_queue_that_is_deleted_is_noticed_and_made_again(rabbitmq):
    """H403: its reader is told, and publishing makes the queue of a declared group anew."""
    async with broker_at(rabbitmq, partitions=1) as broker:
        async with broker.subscribe(["orders"], group="packing") as batches:
            with rabbitmq.channel() as channel:
                channel.queue_delete("packing.orders.1.0")
            with pytest.raises(BrokerUnavailable, match="deleted"):
                await anext(batches)
        sent = message("orders", "key")
        async with broker.subscribe(["orders"], group="packing") as batches:
            await eventually([CONFIRMED], broker, [sent])
            assert sent.id in await Reader(batches).until([sent.id])


async def test_a_queue_without_a_leader_holds_up_itself_alone(rabbitmq, own_rabbitmq):
    """H434: the group's other queues are read, it is told of, and read from the moment on in which it answers."""
    sent = [message("orders", f"key-{n}") for n in range(40)]
    quiet = {each.id for each in sent if slot_of(each) % 2}
    heard = {each.id for each in sent} - quiet
    assert quiet
    assert heard
    async with broker_at(rabbitmq, partitions=2) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        with rabbitmq.silent("packing.orders.2.1"):
            with pytest.raises(BrokerUnavailable, match=r"The queue packing\.orders\.2\.1 does not answer"):
                async with broker.subscribe(["orders"], group="packing"):
                    pass
            async with broker.subscribe(["orders"], group="packing") as batches:
                assert set(await Reader(batches).until(heard)) == heard
                assert list(broker.unread) == ["orders"]
        came = set()
        while not came >= quiet:
            with suppress(BrokerUnavailable):
                async with broker.subscribe(["orders"], group="packing") as batches:
                    reader = Reader(batches)
                    while not came >= quiet:
                        (delivery,) = await reader.take(1, ack=True)
                        came.add(delivery.message.id)
        assert broker.unread == {}


@pytest.mark.parametrize("count", [20, 450], ids=["few", "more than RabbitMQ reads on with"])
async def test_a_queue_that_never_confirms_holds_up_its_topic_alone(rabbitmq, own_rabbitmq, monkeypatch, count):
    """H438, P1, P3, P7: others flow; where so much lies before it that RabbitMQ stops to read, from the next try on."""
    clock, connections = ManualClock(), connections_from_now_on(monkeypatch)
    quiet = [message("quiet", f"quiet-{n}") for n in range(count)]
    busy = [message("busy", f"busy-{n % 5}") for n in range(20)]
    groups = {topic: f"readers-of-{topic}" for topic in ("quiet", "busy")}
    async with RabbitMQBroker.from_url(rabbitmq.url, clock=clock, partitions=1) as broker:
        for topic, group in groups.items():
            broker.declare(group, [topic])
            await Publishing(broker, [message(topic)]).confirmed()
        with rabbitmq.silent("readers-of-quiet.quiet.1.0"):
            together = Publishing(broker, [*busy[:5], *quiet])
            await comes_about(lambda: len(together.outcomes) == 5)
            await clock_waits(clock)
            clock.advance(broker.settings.deadline)
            assert await together.verdicts() == [CONFIRMED] * 5 + [UNKNOWN] * count
            if count > 400:
                await eventually([CONFIRMED], broker, [message("busy")])
            connections.clear()
            for start in range(5, 20, 5):
                tried = Publishing(broker, quiet)
                await clock_waits(clock)
                assert tried.outcomes.keys() == {each.id for each in quiet[1:]}
                mixed = Publishing(broker, [quiet[0], *busy[start : start + 5]])
                assert await mixed.verdicts() == [POSTPONED] + 5 * [CONFIRMED]
                alongside = Publishing(broker, [message("busy") for _ in range(100)])
                clock.advance(broker.settings.deadline)
                await alongside.confirmed()
                assert await tried.verdicts() == [POSTPONED] * count
            assert connections == []
        await eventually([CONFIRMED] + [POSTPONED] * (count - 1), broker, quiet)
        await Publishing(broker, quiet).confirmed()
        for topic, sent in (("quiet", quiet), ("busy", busy)):
            async with broker.subscribe([topic], group=groups[topic]) as batches:
                wanted = [each.id for each in sent]
                came = await Reader(batches).until(wanted)
                assert [one for one in came if one in set(wanted)] == wanted


async def comes_about(happened):
    async with asyncio.timeout(120):
        while not happened():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def clock_waits(clock):
    """Until everything is sent, and a publication waits for confirmations."""
    await comes_about(lambda: clock.next_deadline is not None)


def connections_from_now_on(patch):
    opened, real = [], Link.open

    @instead_of(patch, Link, real)
    async def counted(self):
        opened.append(self)
        return await real(self)

    return opened


async def test_an_alarm_stops_publishing_and_stores_no_copies(rabbitmq, own_rabbitmq):
    """H404: under way is unknown, then nothing is sent until it ends; acknowledgements go on."""
    first, held = message("orders", "a"), message("orders", "b")
    async with broker_at(rabbitmq, deadline=timedelta(seconds=1), partitions=1) as broker:
        async with broker.subscribe(["orders"], group="packing") as batches:
            await eventually([CONFIRMED], broker, [first])  # a busy machine takes longer than the deadline
            (delivery,) = await Reader(batches).take(1, ack=False)
            with own_rabbitmq.alarm():
                assert await Publishing(broker, [held]).verdicts() == [UNKNOWN]
                for _ in range(5):
                    assert await Publishing(broker, [held]).verdicts() == [Verdict.UNAVAILABLE]
                await delivery.ack()
            last = message("orders", "c")
            await eventually([CONFIRMED], broker, [last])
            reader = Reader(batches)
            came = [(await reader.next()).message.id]
            while came[-1] != last.id:
                came.append((await reader.next()).message.id)
        assert came.count(held.id) <= 1


async def test_a_topic_without_a_queue_waits_alone(rabbitmq):
    """H405: it is postponed, its neighbours are confirmed, and what is bound later gets it."""
    sent = [message("unread", "a"), message("orders", "a")]
    async with broker_at(rabbitmq) as broker:
        broker.declare("packing", ["orders"])
        assert await Publishing(broker, sent).verdicts() == [POSTPONED, CONFIRMED]
        broker.declare("packing", ["unread"])
        await eventually([CONFIRMED], broker, sent[:1])


async def test_what_closes_the_channel_hurts_its_neighbours_once(rabbitmq):
    """H406: an exchange is deleted, and a topic must not be written to: the others are confirmed at the next try."""
    url = rabbitmq.user("writer", "p@ss", configure=".*", write="^(?!closed$).*", read=".*")
    closed, neighbour = message("closed", "a"), message("orders", "n")
    async with RabbitMQBroker.from_url(url) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, [neighbour]).confirmed()
        with rabbitmq.channel() as channel:
            channel.exchange_delete("orders")
        await eventually([CONFIRMED], broker, [message("orders", "b")])
        assert (await Publishing(broker, [closed, neighbour]).verdicts())[0] is UNKNOWN
        for _ in range(3):
            assert await Publishing(broker, [closed, neighbour]).verdicts() == [POSTPONED, CONFIRMED]
            neighbours = Publishing(broker, [message("orders", str(n)) for n in range(100)])
            assert await Publishing(broker, [closed]).verdicts() == [UNKNOWN]
            await neighbours.confirmed()


async def test_a_return_is_matched_with_its_own_publication(rabbitmq):
    """H407: the same id twice under way, the first of them unroutable: that one is never confirmed."""
    unread, read = message("unread", "a"), message("orders", "a")
    twin = read._replace(id=unread.id)
    async with broker_at(rabbitmq) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, [read]).confirmed()
        for _ in range(20):
            both = [Publishing(broker, [unread]), Publishing(broker, [twin])]
            assert [await one.verdicts() for one in both] == [[POSTPONED], [CONFIRMED]]


async def test_another_number_of_queues_is_refused(rabbitmq):
    """H408: a member with another number would read half of the keys; it is told what to do, and nothing is made."""
    async with broker_at(rabbitmq, partitions=2) as two, broker_at(rabbitmq, partitions=4) as four:
        async with two.subscribe(["orders"], group="packing"):
            pass
        with pytest.raises(ConfigurationError, match="has 2 queues for orders, and partitions is 4"):
            async with four.subscribe(["orders"], group="packing"):
                pass
        errors = [each for each in await four.check(["orders"], "packing") if each.severity is Severity.ERROR]
        assert [each.subject for each in errors] == ["group packing"]
        assert "partitions=2" in errors[0].fix


async def test_checks_tell_what_is_missing_and_what_differs(rabbitmq):
    """H400: a queue that somebody made with another delivery limit is found; nothing is made by looking."""
    async with broker_at(rabbitmq, partitions=1) as broker:
        found = await broker.check(["orders"], "packing")
        assert {each.subject for each in found} == {"topic orders", "queue packing.orders.1.0"}
        assert {each.severity for each in found} == {Severity.INFO}
        assert await broker.depths(["orders"], "packing") == []
        with rabbitmq.channel() as channel:
            channel.queue_declare("packing.orders.1.0", durable=True, arguments={"x-queue-type": "quorum"})
        (different,) = [each for each in await broker.check(["orders"], "packing") if each.severity is Severity.ERROR]
        assert different.subject == "queue packing.orders.1.0"
        assert "406" in different.words


async def test_depths_tell_what_waits(rabbitmq):
    """What was published and not read is counted, and who reads."""
    async with broker_at(rabbitmq, partitions=2) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, [message("orders", f"key-{n}") for n in range(20)]).confirmed()
        depths = await broker.depths(["orders"], "packing")
        assert [each.queue for each in depths] == ["packing.orders.2.0", "packing.orders.2.1"]
        assert sum(each.ready for each in depths) == 20
        assert {each.readers for each in depths} == {0}
