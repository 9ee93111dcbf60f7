import asyncio
import contextlib
import logging
from datetime import timedelta

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from brokers.kafka_tools import broker_at, eventually, ids_of, stored
from rig.planting import instead_of
from rig.ports import free_port
from rig.waiting import wait_until
from txpatterns.brokers.kafka.channel import Channel
from txpatterns.brokers.kafka.driver_log import DriverLog
from txpatterns.brokers.kafka.topics import weaknesses
from txpatterns.errors import BrokerUnavailable, PublishRejected
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.conformance import BrokerSuite, Publishing, message
from txpatterns.transport import Verdict

BROKER_LIMIT = {"max.message.bytes": "20000"}
TOO_LARGE = b"x" * 30_000
DEADLINE = timedelta(seconds=6)


def firsts(records):
    return list(dict.fromkeys(ids_of(records)))


@pytest.mark.parametrize("per_request", [1, 10_000], ids=["one-per-request", "all-in-one"])
async def test_after_one_too_large_nothing_is_stored(kafka, per_request):
    """P3, H23, H58: ok, too large, ok, ok on one key: what is stored is a prefix, and no neighbour is rejected."""
    topic = kafka.create(config=BROKER_LIMIT)
    sent = [message(topic, "k"), message(topic, "k", payload=TOO_LARGE), *(message(topic, "k") for _ in range(30))]
    async with broker_at(kafka.bootstrap, producer={"batch.num.messages": per_request}) as broker:
        await Publishing(broker, [message(topic, "other")]).confirmed()
        publishing = Publishing(broker, sent)
        await asyncio.sleep(0)
        # The event loop stands still while this looks: that nothing follows is not up to how soon we notice.
        assert ids_of(stored(kafka.bootstrap, topic))[1:] in ([], [sent[0].id])
        assert set((await publishing.verdicts())[1:]) == {Verdict.UNKNOWN}
        assert ids_of(stored(kafka.bootstrap, topic))[1:] in ([], [sent[0].id])
        # As the relay does: again in order, and what fails is tried all by itself.
        rejected = await BrokerSuite().publish_stubbornly(broker, sent)
        assert rejected == [sent[1].id]
        assert firsts(stored(kafka.bootstrap, topic))[1:] == [each.id for each in sent if each is not sent[1]]


async def test_a_refusal_is_believed_only_of_a_message_alone(kafka):
    """H26: with something else under way the same message is unknown; alone it is rejected, and says why."""
    topic = kafka.create(config=BROKER_LIMIT)
    poison = message(topic, "a", payload=TOO_LARGE)
    async with broker_at(kafka.bootstrap) as broker:
        with_others = await Publishing(broker, [poison, message(topic, "b")]).verdicts()
        assert with_others == [Verdict.UNKNOWN, Verdict.UNKNOWN]
        alone = Publishing(broker, [poison])
        assert await alone.verdicts() == [Verdict.REJECTED]
        assert "MSG_SIZE_TOO_LARGE" in str(alone.outcomes[poison.id].error)


async def test_after_a_fatal_error_a_new_producer_goes_on(kafka):
    """H59: the driver's producer is finished for good, and the next publication does not notice."""
    topic = kafka.create(config=BROKER_LIMIT)
    async with broker_at(kafka.bootstrap) as broker:
        for _ in range(3):
            assert await Publishing(broker, [message(topic, payload=TOO_LARGE)]).verdicts() == [Verdict.REJECTED]
            await Publishing(broker, [message(topic, "k"), message(topic, "k")]).confirmed()


async def test_a_failure_makes_all_that_is_under_way_unknown(kafka):
    """H23, H59: another publication on the same connection is published again, too, rather than out of order."""
    small, large = kafka.create(config=BROKER_LIMIT), kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(small), message(large)]).confirmed()
        poison = Publishing(broker, [message(small, "k", payload=TOO_LARGE), message(small, "k")])
        others = [Publishing(broker, [message(large, "k", payload=b"x" * 500_000)]) for _ in range(20)]
        assert set(await poison.verdicts()) == {Verdict.UNKNOWN}
        found = [verdict for other in others for verdict in await other.verdicts()]
        assert set(found) <= {Verdict.CONFIRMED, Verdict.UNKNOWN}
        known = [other.messages[0].id for other, v in zip(others, found, strict=True) if v is Verdict.CONFIRMED]
        assert set(known) <= set(ids_of(stored(kafka.bootstrap, large)))


async def test_a_full_queue_is_waited_for(kafka):
    """H56: the driver's bounded queue pushes back, and loses nothing."""
    topic = kafka.create(partitions=3)
    async with broker_at(kafka.bootstrap, producer={"queue.buffering.max.messages": 20}) as broker:
        sent = [message(topic, str(n)) for n in range(500)]
        await Publishing(broker, sent).confirmed()
        assert sorted(ids_of(stored(kafka.bootstrap, topic))) == sorted(each.id for each in sent)


async def test_concurrent_publications_keep_their_order(kafka):
    """P3: one is handed over whole before the next begins."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap, producer={"queue.buffering.max.messages": 50}) as broker:
        batches = [[message(topic, "k") for _ in range(120)] for _ in range(5)]
        publishing = [Publishing(broker, batch) for batch in batches]
        for each in publishing:
            await each.confirmed()
        assert ids_of(stored(kafka.bootstrap, topic)) == [m.id for batch in batches for m in batch]


async def test_a_missing_topic_costs_no_message_and_is_never_made(kafka):
    """H63: a typo does not become a topic, nor a message a dead letter; the rest of the batch is not held up."""
    topic, late, clock = kafka.create(), f"{kafka.create()}-late", ManualClock()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with broker_at(kafka.bootstrap, clock=clock) as broker:
        sent = [message(late, "k"), message(late, "k"), message(topic, "k")]
        publishing = Publishing(broker, sent)
        assert await publishing.verdicts() == [Verdict.POSTPONED, Verdict.POSTPONED, Verdict.CONFIRMED]
        assert late in str(publishing.outcomes[sent[0].id].error)
        assert late not in admin.list_topics(timeout=10).topics
        try:
            admin.create_topics([NewTopic(late, 1, 1)])[late].result(timeout=120)
            assert await Publishing(broker, sent[:1]).verdicts() == [Verdict.POSTPONED]  # not asked for all the time
            clock.advance(timedelta(seconds=2))
            await Publishing(broker, sent[:2]).confirmed()
        finally:
            admin.delete_topics([late])[late].result(timeout=120)


async def test_a_topic_that_is_deleted_and_made_again(kafka):
    """H59, H63: what is published meanwhile waits, other topics go on, and afterwards all of it arrives."""
    gone, other = kafka.create(), kafka.create()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with broker_at(kafka.bootstrap, deadline=DEADLINE / 2) as broker:
        await Publishing(broker, [message(gone, "k"), message(other, "k")]).confirmed()
        admin.delete_topics([gone], operation_timeout=120)[gone].result(timeout=120)
        await eventually(lambda: gone not in admin.list_topics(timeout=10).topics)
        sent = [message(gone, "k") for _ in range(3)]
        assert set(await Publishing(broker, sent).verdicts()) == {Verdict.UNKNOWN}
        assert await BrokerSuite().publish_stubbornly(broker, [message(other, "k")]) == []
        admin.create_topics([NewTopic(gone, 1, 1)])[gone].result(timeout=120)
        assert await BrokerSuite().publish_stubbornly(broker, sent) == []
        assert firsts(stored(kafka.bootstrap, gone)) == [each.id for each in sent]


async def test_an_impossible_name_is_rejected(kafka):
    """H26: no time makes a topic of that name."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        publishing = Publishing(broker, [message("no topic", "k"), message(topic, "k")])
        assert await publishing.verdicts() == [Verdict.REJECTED, Verdict.CONFIRMED]
        assert isinstance(publishing.outcomes[publishing.messages[0].id].error, PublishRejected)


async def test_a_missing_topic_is_made_if_asked_for(kafka):
    """H63: with as many partitions as were asked for; a look at what is in use says that one copy is not much."""
    topic = f"{kafka.create()}-made"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with broker_at(kafka.bootstrap, create_topics=4) as broker:
        try:
            await Publishing(broker, [message(topic, "k")]).confirmed()
            assert len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == 4
            (told,) = await broker.check([])
        finally:
            admin.delete_topics([topic])[topic].result(timeout=120)
    assert told.subject == f"topic {topic}"
    assert "one copy of each partition" in told.words


async def test_more_partitions_are_noticed(kafka, caplog):
    """H62: keys have moved, and an operator is told."""
    topic = kafka.create(partitions=2)
    async with broker_at(kafka.bootstrap) as broker:
        assert await broker._topics.check([topic]) == {}
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_partitions([NewPartitions(topic, 5)])[topic].result(timeout=120)
        while "had 2 partitions and has 5" not in caplog.text:
            broker._topics.doubt()
            await broker._topics.check([topic])


def test_weak_settings_are_said_in_words():
    """H63: one copy, one in-sync replica, or a smaller limit than ours."""
    strong = {"min.insync.replicas": 2, "max.message.bytes": 1_048_588}
    assert weaknesses("t", 3, strong, 1_000_000) == []
    assert "one copy" in weaknesses("t", 1, strong, 1_000_000)[0].words
    assert "min.insync.replicas=1" in weaknesses("t", 3, {**strong, "min.insync.replicas": 1}, 1_000_000)[0].words
    assert "1048588 bytes" in weaknesses("t", 3, strong, 2_000_000)[0].words


MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


async def test_keys_go_where_java_sends_them(kafka):
    """H61: the vectors of Kafka's own tests; a Java producer beside us keeps the order of our keys."""
    topic = kafka.create(partitions=10)
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(topic, key) for key in MURMUR2]).confirmed()
    went = {record.key().decode(): record.partition() for record in stored(kafka.bootstrap, topic)}
    assert went == {key: (hashed & 0x7FFFFFFF) % 10 for key, hashed in MURMUR2.items()}


async def test_what_has_no_bytes_is_rejected(kafka):
    """H69: half of a surrogate pair in a key or header fails its message alone; its key stops, others go on."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        sent = [
            message(topic, "k", headers={"odd": "\ud800"}),
            message(topic, "k"),
            message(topic, "\ud800"),
            message(topic, "other"),
        ]
        verdicts = await Publishing(broker, sent).verdicts()
        assert verdicts == [Verdict.REJECTED, Verdict.UNKNOWN, Verdict.REJECTED, Verdict.CONFIRMED]
        assert ids_of(stored(kafka.bootstrap, topic)) == [sent[3].id]


async def test_nobody_there_is_unavailable(seed):
    """H26: nothing was sent, so no attempt is burned; a subscriber is told the same."""
    async with broker_at(f"127.0.0.1:{free_port()}") as broker:
        assert await Publishing(broker, [message("t"), message("t")]).verdicts() == [Verdict.UNAVAILABLE] * 2
        with pytest.raises(BrokerUnavailable):
            async with broker.subscribe(["t"], group="g"):
                pass


async def test_a_server_that_is_away_is_said_once_a_minute(seed, caplog):
    """H35: a driver says it at each try, several times a second; the log has it once, and again a minute later."""
    caplog.set_level(logging.DEBUG, "txpatterns.kafka")
    clock, told = ManualClock(), []

    class Kept(DriverLog):
        def log(self, *given) -> None:
            told.append(given)
            super().log(*given)

    log = Kept(clock)
    driver = Producer({"bootstrap.servers": f"127.0.0.1:{free_port()}", "logger": log})

    def refused():
        driver.poll(0.05)
        return next((given for given in told if "Connection refused" in given[-1]), None)

    line = wait_until(refused, what="the driver's line")  # some releases of it keep its repetitions to themselves
    for minutes in (1, 2):
        for _ in range(5):
            log.log(*line)
        lines = [record for record in caplog.records if "Connection refused" in record.message]
        assert sum(record.levelno >= logging.INFO for record in lines) == minutes
        assert len(lines) >= 5 * minutes
        clock.advance(timedelta(minutes=1))


def test_one_event_loop_after_another(kafka):
    """P1: left in one loop, it is entered in the next, with several who publish and ask at once in both."""
    topic = kafka.create()
    broker = broker_at(kafka.bootstrap)

    async def use():
        async with broker:
            asking = [broker._topics.check([topic]) for _ in range(3)]
            publishing = [Publishing(broker, [message(topic)]).confirmed() for _ in range(3)]
            await asyncio.gather(*asking, *publishing)

    asyncio.run(use())
    asyncio.run(use())
    assert len(stored(kafka.bootstrap, topic)) == 6


FORKED = """
import asyncio
import os
import sys
import threading

from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.testing.conformance import Publishing, message

broker = KafkaBroker.from_url(sys.argv[1])


async def publish():
    async with asyncio.timeout(120):
        await Publishing(broker, [message(sys.argv[2], "k")]).confirmed()


loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
asyncio.run_coroutine_threadsafe(publish(), loop).result()
pid = os.fork()
if pid == 0:
    asyncio.run(publish())
    print("child published", flush=True)
    sys.exit()
assert os.waitpid(pid, 0) == (pid, 0)
asyncio.run_coroutine_threadsafe(publish(), loop).result()
print("parent published", flush=True)
"""


def test_a_forked_child_has_a_producer_of_its_own(kafka, child, tmp_path):
    """P1, H38: the driver's threads stay with the parent; the child publishes, ends, and the parent's goes on."""
    topic = kafka.create()
    (tmp_path / "forked.py").write_text(FORKED)
    running = child(tmp_path / "forked.py", kafka.url, topic)
    assert running.wait(within=timedelta(minutes=3)) == 0, running.output
    assert "child published" in running.output
    assert "parent published" in running.output
    assert len(stored(kafka.bootstrap, topic)) == 3


async def test_closing_ends_what_is_under_way(kafka, own_kafka):
    """H56: whoever waits is told unknown, at once."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(topic)]).confirmed()
        own_kafka.pause()
        publishing = Publishing(broker, [message(topic, "k") for _ in range(10)])
        await asyncio.sleep(0)
    assert set(await publishing.verdicts()) == {Verdict.UNKNOWN}


async def test_what_the_driver_has_at_the_close_is_told_and_not_sent(kafka, monkeypatch):
    """P1, P3, H56, H308: it is in no topic later, and whoever sends it again finds its place free."""
    topic, news, held, closed = kafka.create(), Channel.news, asyncio.Event(), asyncio.Event()
    sent = [message(topic, "k") for _ in range(100)]

    async def all_ids():
        return await asyncio.to_thread(lambda: ids_of(stored(kafka.bootstrap, topic)))

    async with broker_at(kafka.bootstrap, producer={"linger.ms": 2_000}) as broker:
        await Publishing(broker, sent[:10]).confirmed()
        (channel,) = broker._publisher._channels

        @instead_of(monkeypatch, Channel, news)
        async def held_back(self):  # or it would tell the driver to gather no more
            held.set()
            await closed.wait()
            await news(self)

        publishing = Publishing(broker, sent[10:])
        await held.wait()
        assert len(channel._producer) == 90
    closed.set()
    assert set(await publishing.verdicts()) == {Verdict.UNKNOWN}
    await eventually(lambda: not len(channel._producer))
    assert await all_ids() == [each.id for each in sent[:10]]
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, sent[10:]).confirmed()
    assert await all_ids() == [each.id for each in sent]


async def test_a_killed_broker_loses_nothing_that_was_confirmed(kafka, own_kafka):
    """P1, H56, H60: SIGKILL in the middle of many batches, and a restart: every confirmed message is stored."""
    topic = kafka.create(partitions=3)
    confirmed, order, batches = set(), {}, 0
    async with broker_at(kafka.bootstrap, deadline=DEADLINE) as broker:
        suite = BrokerSuite()

        async def keep_publishing():
            nonlocal batches
            while batches < 40 or own_kafka.faults["kill"] == 0:
                sent = [message(topic, f"k{n % 7}") for n in range(50)]
                for each in sent:
                    order.setdefault(each.key, []).append(each.id)
                assert await suite.publish_stubbornly(broker, sent) == []
                confirmed.update(each.id for each in sent)
                batches += 1

        publishing = asyncio.create_task(keep_publishing())
        await eventually(lambda: batches >= 5)
        await asyncio.to_thread(own_kafka.kill)
        await asyncio.to_thread(own_kafka.start)
        await publishing
    came = firsts(stored(kafka.bootstrap, topic))
    assert set(came) == confirmed
    for ids in order.values():
        mine = set(ids)
        assert [one for one in came if one in mine] == ids


async def test_a_broker_paused_beyond_the_deadline(kafka, own_kafka):
    """P3, H22, H60: everything is unknown, nothing is skipped, and published again the order holds."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap, deadline=DEADLINE / 2) as broker:
        await Publishing(broker, [message(topic, "k")]).confirmed()
        own_kafka.pause()
        sent = [message(topic, "k") for _ in range(20)]
        first, second = Publishing(broker, sent[:10]), Publishing(broker, sent[10:])
        assert set(await first.verdicts() + await second.verdicts()) == {Verdict.UNKNOWN}
        assert await Publishing(broker, sent).verdicts() == [Verdict.UNAVAILABLE] * 20  # asked first, not sent again
        own_kafka.resume()
        assert await BrokerSuite().publish_stubbornly(broker, sent) == []
        came = firsts(stored(kafka.bootstrap, topic))[1:]
        assert came == [each.id for each in sent]


async def test_those_who_wait_are_not_disturbed_by_those_who_give_up(kafka, own_kafka):
    """H6, H57: of many publications that wait for the same driver some are cancelled; the others hear all outcomes."""
    topic = kafka.create(partitions=3)
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(topic)]).confirmed()
        own_kafka.pause()
        publishing = [Publishing(broker, [message(topic, f"k{n}") for _ in range(50)]) for n in range(20)]
        channel = broker._publisher._channel
        await eventually(lambda: len(channel._batches) == 20 and not channel._waiting.done())
        for each in publishing[::2]:
            each.task.cancel()
        own_kafka.resume()
        for each in publishing[1::2]:
            await each.confirmed()
        known = {each.id for one in publishing[1::2] for each in one.messages}
        assert known <= set(ids_of(stored(kafka.bootstrap, topic)))


async def test_two_publishers_do_not_fence_each_other(kafka):
    """H64: there is no transactional id that they could share, so both go on, whatever their options have in common."""
    topic = kafka.create()
    options = {"client.id": "the-same"}
    async with (
        broker_at(kafka.bootstrap, options=options) as one,
        broker_at(kafka.bootstrap, options=options) as two,
    ):
        for _ in range(5):
            await Publishing(one, [message(topic, "k")]).confirmed()
            await Publishing(two, [message(topic, "k")]).confirmed()
        assert len(stored(kafka.bootstrap, topic)) == 10


async def test_leaving_a_publication_early_is_harmless(kafka):
    """H6: whoever stops reading outcomes leaves nothing behind that disturbs the next."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        for _ in range(5):
            outcomes = broker.publish([message(topic, "k") for _ in range(100)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(outcomes)
            await outcomes.aclose()
        await Publishing(broker, [message(topic, "k") for _ in range(100)]).confirmed()
