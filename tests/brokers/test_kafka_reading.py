import asyncio
import functools
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Consumer, Producer
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from brokers.kafka_tools import broker_at, committed, eventually
from txpatterns.brokers.kafka.intake import Intake
from txpatterns.brokers.kafka.progress import Progress
from txpatterns.brokers.kafka.wire import as_text, from_kafka, tolerant
from txpatterns.errors import BrokerError
from txpatterns.messages import EPOCH, TOMBSTONE, Message
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.conformance import BrokerSuite, Publishing, Reader, message

# ---------------------------------------------------------------------- offsets, without a broker


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_the_position_never_passes_what_is_open(data, gaps):
    """H65: whatever the order of acknowledgements, and with gaps between offsets: everything below is done."""
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    progress, done = Progress("t", 0), set()
    for offset in offsets:
        progress.take_in([offset], [10])
    for offset in data.draw(st.permutations(offsets)):
        progress.acknowledge(offset)
        done.add(offset)
        progress.advance()
        assert all(o in done for o in offsets if o < progress.position)
        still_open = [o for o in offsets if o not in done]
        assert progress.position == (offsets[0] if still_open[:1] == offsets[:1] else _after(offsets, still_open))
        assert (progress.in_flight == 0) == (not still_open)
    assert (progress.position, progress.bytes) == (offsets[-1] + 1, 0)


def _after(offsets, still_open):
    return max(o for o in offsets if not still_open or o < still_open[0]) + 1


def test_a_commit_is_due_only_for_something_new():
    """H65: nothing is committed before the first acknowledgement, nor twice."""
    progress = Progress("t", 0)
    assert progress.to_commit is None
    progress.take_in([7], [1])
    assert progress.to_commit is None
    progress.acknowledge(7)
    progress.advance()
    assert progress.to_commit == 8
    progress.committed = 8
    assert progress.to_commit is None


# ---------------------------------------------------------------------- records of strangers


def test_headers_of_every_kind_are_read():
    """H69: None, empty, not UTF-8, NUL and repeated names; the last of a name counts."""
    odd = [("a", None), ("b", b""), ("c", b"\xff\xfe"), ("d", b"nul\0"), ("e", b"1"), ("e", b"2"), ("f", "text")]
    assert tolerant(odd) == {"a": "", "b": "", "c": "\\xff\\xfe", "d": "nul\\x00", "e": "2", "f": "text"}
    assert as_text("é".encode()) == "é"


@dataclass
class Record:
    """What the driver's message has, as far as it is read."""

    value: bytes | None = None
    key: bytes | None = b"k"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    timestamp: tuple[int, int] = (TIMESTAMP_CREATE_TIME, 1_767_323_045_678)

    def read(self) -> Message:
        told = {**vars(self), "topic": "t", "partition": 0, "offset": 7, "error": None}
        return from_kafka(SimpleNamespace(**{name: lambda value=value: value for name, value in told.items()}))


@pytest.mark.parametrize(
    ("record", "is_tombstone"),
    [
        (Record(), True),
        (Record(key=b""), True),
        (Record(key=None, headers=[("ordering-key", b"k")]), True),
        (Record(headers=[("content-type", b"application/json"), ("message-type", b"x")]), True),
        (Record(key=None), False),
        (Record(value=b""), False),
        (Record(value=b"x", headers=[("content-type", TOMBSTONE.encode())]), False),
    ],
)
def test_a_key_without_a_value_is_a_tombstone(record, is_tombstone):
    """H212: whoever wrote it, with headers or bare."""
    assert record.read().is_tombstone is is_tombstone


@pytest.mark.parametrize(
    ("timestamp", "at"),
    [
        ((TIMESTAMP_CREATE_TIME, 1_767_323_045_678), datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)),
        ((TIMESTAMP_NOT_AVAILABLE, -1), EPOCH),
        ((TIMESTAMP_CREATE_TIME, 2**62), EPOCH),
        ((TIMESTAMP_CREATE_TIME, -(2**62)), EPOCH),
    ],
)
def test_a_record_without_an_id_has_the_time_at_which_it_was_stored(timestamp, at):
    """P2, H211: it tells the records of a topic made anew from those in the same places before."""
    read = Record(b"x", timestamp=timestamp).read()
    assert (read.id, read.occurred_at) == ("t/0/7", at)
    told = [("occurred-at", b"2026-02-01T00:00:00+00:00")]
    assert Record(b"x", headers=told, timestamp=timestamp).read().occurred_at == datetime(2026, 2, 1, tzinfo=UTC)
    assert Record(b"x", headers=[("message-id", b"own")], timestamp=timestamp).read().occurred_at == EPOCH


async def test_a_tombstone_of_ours_is_no_value_in_kafka(kafka):
    """H212: that is what a compacted topic, and everybody else's consumer, takes for one."""
    topic = kafka.create()
    gone = Message("t-1", topic, "customer.forgotten", b"", "k", content_type=TOMBSTONE)
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [gone, gone._replace(id="t-2", content_type="text/plain")]).confirmed()
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    reader.subscribe([topic])
    try:
        found = await asyncio.to_thread(reader.consume, 2, 60)
    finally:
        reader.close()
    assert [(record.key(), record.value()) for record in found] == [(b"k", None), (b"k", b"")]


async def test_records_of_strangers_arrive(kafka):
    """H69: random headers, keys and bodies from a producer that knows nothing of us, through the real broker."""
    topic = kafka.create()
    chance = random.Random(7)
    stranger = Producer({"bootstrap.servers": kafka.bootstrap})
    names = ["message-id", "message-type", "occurred-at", "ordering-key", "traceparent", "txp-lane", "", "é"]
    for number in range(300):
        headers = [
            (chance.choice(names), chance.choice([None, b"", chance.randbytes(chance.randint(1, 40))]))
            for _ in range(chance.randint(0, 6))
        ]
        key = chance.choice([None, b"", chance.randbytes(5), f"k{number % 3}".encode()])
        stranger.produce(topic, chance.choice([None, b"", chance.randbytes(20)]), key, headers=headers)
    assert stranger.flush(30) == 0
    async with broker_at(kafka.bootstrap) as broker, broker.subscribe([topic], group="g") as batches:
        came = [delivery.message for delivery in await Reader(batches).take(300, ack=True)]
    for each in came:
        each.id.encode(), (each.key or "").encode(), each.type.encode()
        assert each.id
        assert isinstance(each.payload, bytes)
        assert "\0" not in each.id + (each.key or "") + "".join(each.headers.values())
        assert not [name for name in each.headers if name.startswith("txp-")]


async def test_a_record_without_an_id_is_named_by_its_place(kafka):
    """H45: the same name at every delivery, so that a repetition is seen as one; the record's key orders it."""
    topic = kafka.create()
    stranger = Producer({"bootstrap.servers": kafka.bootstrap})
    stranger.produce(topic, b"one", "key")
    stranger.produce(topic, b"two", headers={"message-id": ""})
    assert stranger.flush(30) == 0
    async with broker_at(kafka.bootstrap) as broker:
        for _ in range(2):
            async with broker.subscribe([topic], group="g") as batches:
                came = [d.message for d in await Reader(batches).take(2, ack=False)]
            assert [(m.id, m.key, m.payload) for m in came] == [
                (f"{topic}/0/0", "key", b"one"),
                (f"{topic}/0/1", None, b"two"),
            ]


# ---------------------------------------------------------------------- committing


async def test_commits_are_contiguous_and_come_by_themselves(kafka):
    """H65: an early acknowledgement is not committed over a late one; the interval commits without a stop."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker, broker.subscribe([topic], group="g") as batches:
        await Publishing(broker, [message(topic, "k") for _ in range(10)]).confirmed()
        taken = await Reader(batches).take(10, ack=False)
        for index in (0, 1, 2, 5, 6, 9):
            await taken[index].ack()
        await eventually(lambda: committed(kafka.bootstrap, "g", topic) == 3)
        await taken[3].ack()
        await eventually(lambda: committed(kafka.bootstrap, "g", topic) == 4)
        await taken[4].ack()
        await eventually(lambda: committed(kafka.bootstrap, "g", topic) == 7)
    assert committed(kafka.bootstrap, "g", topic) == 7


async def test_nothing_is_committed_that_was_not_acknowledged(kafka):
    """H65: reading alone moves no offset, also when the member leaves."""
    topic = kafka.create()
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, [message(topic, "k") for _ in range(3)]).confirmed()
        async with broker.subscribe([topic], group="g") as batches:
            await Reader(batches).take(3, ack=False)
    assert committed(kafka.bootstrap, "g", topic) is None


async def test_lost_offsets_skip_nothing(kafka):
    """H68: a group whose offsets are gone starts at the beginning, never at the end."""
    topic = kafka.create()
    sent = [message(topic, "k") for _ in range(6)]
    async with broker_at(kafka.bootstrap) as broker:
        await Publishing(broker, sent).confirmed()
        async with broker.subscribe([topic], group="forgotten") as batches:
            await Reader(batches).take(4, ack=True)
        assert committed(kafka.bootstrap, "forgotten", topic) == 4
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.delete_consumer_groups(["forgotten"])["forgotten"].result(timeout=120)
        async with broker.subscribe([topic], group="forgotten") as batches:
            came = await Reader(batches).take(6, ack=True)
    assert [d.message.id for d in came] == [each.id for each in sent]


# ---------------------------------------------------------------------- slowness and rebalances


async def test_a_slow_application_is_not_flooded_and_keeps_its_membership(kafka, monkeypatch):
    """H67, I16: unacknowledged messages are bounded, partitions are paused while polling goes on, nothing repeats."""
    intakes = []
    monkeypatch.setattr(Intake, "start", _noting(intakes, Intake.start))
    topic = kafka.create(partitions=3)
    sent = [message(topic, str(n % 30)) for n in range(2000)]
    async with (
        broker_at(kafka.bootstrap, max_in_flight=50) as broker,
        broker.subscribe([topic], group="g") as batches,
    ):
        await Publishing(broker, sent[:1000]).confirmed()
        await Publishing(broker, sent[1000:]).confirmed()
        reader = Reader(batches)
        held = await reader.take(50, ack=False)
        thread = intakes[0]._consumer
        await eventually(lambda: thread._paused and thread._paused == set(thread._owned))
        taken_in = sum(progress.in_flight for progress in thread._owned.values())
        assert 50 <= taken_in < 50 + 500  # the bound is looked at between reads of at most 500
        for delivery in held:
            await delivery.ack()
        came = [*held, *await reader.take(1950, ack=True)]
    assert sorted(d.message.id for d in came) == sorted(each.id for each in sent)


def _noting(noted, start):
    def noting(intake):
        noted.append(intake)
        start(intake)

    return noting


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
async def test_members_come_and_go_while_working(kafka, strategy):
    """P1, P3, H66: nothing is lost and nothing committed early, by either protocol; each member sees keys in order."""
    topic = kafka.create(partitions=6)
    number = {}
    sent = [message(topic, f"k{n % 40}") for n in range(4000)]
    number.update({each.id: n for n, each in enumerate(sent)})
    handled, stays = set(), []
    options = {"consumer": {"partition.assignment.strategy": strategy}}

    async with broker_at(kafka.bootstrap, **options) as broker, AsyncExitStack() as stack:

        async def work(batches):
            seen: dict[str, list[int]] = {}
            stays.append(seen)
            async for batch in batches:
                await asyncio.sleep(0)  # others run, so that acknowledgements come late
                for delivery in batch:
                    seen.setdefault(delivery.message.key, []).append(number[delivery.message.id])
                    handled.add(delivery.message.id)
                    await delivery.ack()

        async def visit():
            for _ in range(4):
                async with broker.subscribe([topic], group="g") as batches:
                    visitor, before = asyncio.create_task(work(batches)), len(handled)
                    enough = min(before + 300, len(sent))
                    await eventually(functools.partial(_has, handled, enough))
                visitor.cancel()

        steady = asyncio.create_task(work(await stack.enter_async_context(broker.subscribe([topic], group="g"))))
        visits = [asyncio.create_task(visit()) for _ in range(2)]
        for start in range(0, len(sent), 100):
            assert await BrokerSuite().publish_stubbornly(broker, sent[start : start + 100]) == []
        await asyncio.gather(*visits)
        await eventually(functools.partial(_has, handled, len(sent)))
        steady.cancel()
    assert handled == number.keys()
    ends = [committed(kafka.bootstrap, "g", topic, partition) or 0 for partition in range(6)]
    assert sum(ends) == len(sent)
    for seen in stays:
        for came in seen.values():
            assert list(dict.fromkeys(came)) == sorted(set(came))


def _has(handled, number):
    return len(handled) >= number


async def test_a_partition_that_is_taken_away_waits_for_what_is_handled(kafka):
    """H66: a joining member does not get what another is still handling, if that ends in time."""
    topic = kafka.create(partitions=2)
    sent = [message(topic, f"k{n}") for n in range(20)]
    async with broker_at(kafka.bootstrap, revoke_wait=timedelta(seconds=30)) as broker:
        await Publishing(broker, sent).confirmed()
        async with broker.subscribe([topic], group="g") as first:
            held = await Reader(first).take(20, ack=False)
            async with broker.subscribe([topic], group="g") as second:
                late = asyncio.create_task(anext(second))
                await eventually(lambda: any(delivery.progress.lost for delivery in held))
                assert not late.done()
                for delivery in held:
                    await delivery.ack()
                await eventually(lambda: sum(committed(kafka.bootstrap, "g", topic, p) or 0 for p in (0, 1)) == 20)
                assert not late.done()
                late.cancel()


async def test_reading_survives_a_restart_of_the_broker(kafka, own_kafka):
    """P1, H66: SIGKILL and start again while reading: nothing is lost, and the member goes on by itself."""
    topic = kafka.create(partitions=2)
    async with broker_at(kafka.bootstrap) as broker, broker.subscribe([topic], group="g") as batches:
        reader = Reader(batches)
        for _ in range(2):
            sent = [message(topic, f"k{n % 5}") for n in range(200)]
            assert await BrokerSuite().publish_stubbornly(broker, sent) == []
            await reader.until(each.id for each in sent)
            await asyncio.to_thread(own_kafka.kill)
            await asyncio.to_thread(own_kafka.start)
        sent = [message(topic, f"k{n % 5}") for n in range(200)]
        assert await BrokerSuite().publish_stubbornly(broker, sent) == []
        await reader.until(each.id for each in sent)


# ---------------------------------------------------------------------- topics that cannot be read


async def test_a_topic_that_is_missing_keeps_no_other_from_being_read(kafka, caplog):
    """P7, H63: it is named, in the log once, and read as soon as somebody has made it."""
    there, clock = kafka.create("there"), ManualClock()
    missing = there.replace("there", "missing")
    async with broker_at(kafka.bootstrap, clock=clock) as broker:
        sent = [message(there, "k")]
        await Publishing(broker, sent).confirmed()
        async with broker.subscribe([there, missing], group="g") as batches:
            reader = Reader(batches)
            assert [d.message for d in await reader.take(1, ack=True)] == sent
            assert [*broker.unread] == [missing]
            assert "Unknown topic" in str(broker.unread[missing])
            clock.advance(timedelta(seconds=5))
            kafka.create(missing, exactly=True)
            await eventually(lambda: clock.advance(timedelta(seconds=5)) or not broker.unread)
            sent = [message(missing, "k"), message(there, "k")]
            await Publishing(broker, sent).confirmed()
            came = await reader.take(2, ack=True)
    assert {d.message.id for d in came} == {each.id for each in sent}
    told = [record.getMessage() for record in caplog.records if f"the topic {missing} cannot be used" in record.message]
    assert len(told) == 1
    assert broker.unread == {}


async def test_without_any_topic_that_can_be_read_there_is_no_subscription(kafka):
    """P7, H63: it is an outage, as before."""
    async with broker_at(kafka.bootstrap) as broker:
        with pytest.raises(BrokerError, match="cannot be read"):
            async with broker.subscribe(["missing-1", "missing-2"], group="g"):
                raise AssertionError("never")
