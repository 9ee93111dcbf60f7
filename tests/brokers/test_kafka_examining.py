"""What `txp doctor` and `txp queues` are told of a real Kafka."""

from datetime import timedelta

import pytest

from brokers.kafka_tools import broker_at, eventually
from brokers.test_kafka_login import secured
from rig.ports import free_port
from txpatterns.brokers.kafka import examining
from txpatterns.errors import BrokerUnavailable
from txpatterns.findings import Severity
from txpatterns.testing.conformance import Publishing, Reader, message


async def test_what_is_wrong_with_topics_is_found_without_making_them(kafka):
    """H63: a missing topic stops a deploy, a weak one is told, and looking for one does not make it."""
    there = kafka.create()
    missing = f"{there}-missing"
    async with broker_at(kafka.bootstrap) as broker:
        weak, absent = await broker.check([there, missing], "billing")
        assert (weak.severity, weak.subject) == (Severity.WARNING, f"topic {there}")
        assert "one copy" in weak.words
        assert absent.severity is Severity.ERROR
        assert str(absent) == f"topic {missing}: It does not exist. Make it, or set create_topics."
        assert [each for each in await broker.check([missing]) if each.severity is Severity.ERROR] == [absent]


async def test_a_topic_that_will_be_made_stops_no_deploy(kafka):
    """H63: its first use makes it."""
    missing = f"{kafka.create()}-missing"
    async with broker_at(kafka.bootstrap, create_topics=4) as broker:
        (told,) = await broker.check([missing])
        assert (told.severity, told.fix) == (Severity.INFO, "")
        assert "with 4 partitions" in told.words


async def test_a_server_that_does_not_answer_is_a_finding(monkeypatch):
    """H63: whoever looks is told why, in the same form as everything else."""
    monkeypatch.setattr(examining, "ANSWER_WITHIN", 0.5)
    broker = broker_at(f"127.0.0.1:{free_port()}")
    (told,) = await broker.check(["orders"], "billing")
    assert told.severity is Severity.ERROR
    assert "does not answer" in told.words
    with pytest.raises(BrokerUnavailable):
        await broker.depths(["orders"], "billing")


async def test_a_refused_login_is_told_without_the_password(own_kafka, monkeypatch):
    """H151: the reason is the broker's, and the password is in no text."""
    monkeypatch.setattr(examining, "ANSWER_WITHIN", 5.0)
    broker = type(broker_at("x:1")).from_url(secured(own_kafka, "wr0ng-s3cret"))
    (told,) = await broker.check(["orders"])
    assert "Invalid username or password" in told.words
    assert "wr0ng-s3cret" not in repr(told)


async def test_how_far_a_group_is_behind(kafka):
    """H431: by partition, the age of the oldest and who reads it; a group that never read is behind by all there is."""
    topic = kafka.create(partitions=2)
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(topic, "k") for _ in range(5)]).confirmed()
        depths = await broker.depths([topic], "billing")
        assert sorted(each.ready for each in depths) == [0, 5]
        assert [each.readers for each in depths] == [0, 0]
        (full,) = [each for each in depths if each.ready]
        assert full.oldest is not None
        assert timedelta(0) <= full.oldest < timedelta(minutes=10)
        async with broker.subscribe([topic], group="billing") as batches:
            await Reader(batches).take(5, ack=True)

            def behind() -> int:
                return sum(each.ready or 0 for each in examining.depths(broker.settings, [topic], "billing"))

            assert await eventually(lambda: behind() == 0)
            depths = await broker.depths([topic], "billing")
            assert [(each.readers, each.oldest) for each in depths] == [(1, None), (1, None)]


async def test_a_topic_that_is_not_there_has_no_depth(kafka):
    """H431: it is what `check` tells of."""
    async with broker_at(kafka.bootstrap) as broker:
        assert await broker.depths([f"{kafka.create()}-missing"], "billing") == []
