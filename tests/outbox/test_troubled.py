"""A topic or a key in trouble beside others that are well: it holds up itself alone, whatever the trouble is."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import REJECTED, UNKNOWN
from outbox.support import WAITING, ids, open_database, rows, session_of
from outbox.test_relay import drained, running, until
from txpatterns import Hooks
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.errors import LeaseLost
from txpatterns.hooks import on
from txpatterns.messages import Event
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.moments import TopicPostponed, TopicResumed
from txpatterns.outbox.relay import topics
from txpatterns.outbox.relay.holding_store import HoldingStore
from txpatterns.retries import FailurePolicies, FailurePolicy, RetryLadder
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Verdict

pytestmark = pytest.mark.one_driver

POSTPONED = Outcome(Verdict.POSTPONED, ConnectionError("no queue is bound"))
SETTINGS = RelaySettings(batch=10, read_ahead=60, poll=timedelta(milliseconds=50), lease=timedelta(seconds=30))
QUICK = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=50),) * 1000)))
ROUNDS = 3


class Good(Event, topic="good", type="good", key="name"):
    name: str


class Bad(Event, topic="bad", type="bad", key="name"):
    name: str


class BadKey(Event, topic="good", type="good.bad", key="name"):
    name: str


class Troubled:
    """Confirms at once what is good; of the rest it says what it is told to say, at once or when it is ``told``."""

    def __init__(self, outcome, *, ordered, patient=False, slow=False):
        self.capabilities = Capabilities(ordered_prefix=ordered, confirms_handling=patient, max_batch=100)
        self.outcome, self.slow = outcome, slow
        self.told, self.mended = asyncio.Event(), False
        self.stored, self.asked = [], []

    async def publish(self, messages):
        bad = [] if self.mended else [message for message in messages if message.key.startswith("bad")]
        good = [message for message in messages if message not in bad]
        self.stored += good
        self.asked += bad
        await asyncio.sleep(0)
        if good:
            yield dict.fromkeys((message.id for message in good), CONFIRMED)
        if bad and self.slow:
            await self.told.wait()
        if bad:
            yield dict.fromkeys((message.id for message in bad), self.outcome)

    @property
    def stored_ids(self):
        return {message.id for message in self.stored}


class Told(Hooks):
    def __init__(self):
        self.topics = []

    @on(TopicPostponed)
    def topic_postponed(self, moment):
        self.topics.append(f"{moment.topic}: {moment.error}")

    @on(TopicResumed)
    def topic_resumed(self, moment):
        self.topics.append(f"{moment.topic} flows")


async def add(store, outbox, events):
    async with session_of(store) as session, session.begin():
        return [outbox.add(session, event) for event in events]


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


@pytest.mark.parametrize("slow", [False, True], ids=["answers at once", "gives no answer"])
@pytest.mark.parametrize("ordered", [False, True], ids=["one by one", "ordered prefix"])
@pytest.mark.parametrize(("kind", "many"), [(Bad, 20), (BadKey, 3)], ids=["a topic", "keys of a topic"])
@pytest.mark.parametrize("outcome", [UNKNOWN, REJECTED, POSTPONED], ids=lambda outcome: outcome.verdict.value)
async def test_the_others_go_on(store, outcome, kind, many, ordered, slow):
    """P3, P7, H26, H192: messages for the bad and for the good keep coming; all good ones go out while no bad one does.

    What takes nothing now is a topic; so its good keys wait with it.
    """
    outbox, bad, good = Outbox(store), [], []
    broker = Troubled(outcome, ordered=ordered, slow=slow)

    async def all_good_are_out():
        await until(lambda: broker.stored_ids >= set(good), "the good ones to go out")

    async with running(Relay(store, broker, settings=SETTINGS, policies=QUICK)):
        for turn in range(ROUNDS):
            names = [f"bad {turn} {n}" for n in range(many)]
            bad += [await add(store, outbox, [kind(name=name), kind(name=name)]) for name in names]
            good += await add(store, outbox, [Good(name=f"good {turn} {n}") for n in range(20)])
            if kind is Bad or outcome is not POSTPONED:
                await all_good_are_out()
        broker.mended = True
        broker.told.set()
        await until_empty(store)
    dead = {row.message_id for row in await rows(store, sa.select(dead_letter_table))}
    assert broker.stored_ids | dead == {*good, *(each for pair in bad for each in pair)}
    assert outcome is REJECTED or not dead
    place = {message.id: n for n, message in reversed(list(enumerate(broker.stored)))}
    assert all(place[one] < place[two] for one, two in bad if one in place and two in place)


async def until_empty(store):
    async with asyncio.timeout(120):
        while await ids(store) or await rows(store, WAITING):  # noqa: ASYNC110 - a database tells nobody
            await asyncio.sleep(0.02)


async def test_a_topic_that_takes_nothing_burns_no_attempt(store):
    """P1, P7, H26, H192: it is tried with one message, fills no memory, and all goes out in order when it is mended."""
    outbox, told = Outbox(store), Told()
    broker = Troubled(POSTPONED, ordered=True)
    added = await add(store, outbox, [Bad(name=f"bad {n % 7}") for n in range(500)])
    relay = Relay(store, broker, settings=SETTINGS, hooks=told)
    async with running(relay):
        await until(lambda: told.topics, "the first answer")
        good = await add(store, outbox, [Good(name=f"good {n}") for n in range(100)])
        await until(lambda: len(broker.stored) == len(good), "the good ones")
        known = relay._serving.backlog.unfinished.rows.values()
        assert sum(row.message.topic == "bad" for row in known) <= 1
        tried = len(broker.asked)
        await until(lambda: len(broker.asked) > tried, "it to be tried again")
        assert len(broker.asked) == tried + 1
        broker.mended = True
        await drained(relay)
    assert told.topics == ["bad: no queue is bound", "bad flows"]
    lanes = {}
    for message in broker.stored:
        if message.topic == "bad":
            lanes.setdefault(message.key, []).append(message.id)
    assert all(found == [each for each in added if each in set(found)] for found in lanes.values())
    assert sorted(each for found in lanes.values() for each in found) == sorted(added)
    assert await rows(store, sa.select(dead_letter_table)) == []


async def test_what_was_told_of_a_topic_outlives_a_break_of_the_relay(store, monkeypatch):
    """P7, H294: a topic that is mended while the relay has no lease is told to flow again, and health knows it."""
    outbox, told = Outbox(store), Told()
    broker = Troubled(POSTPONED, ordered=True)
    await add(store, outbox, [Bad(name="bad")])
    relay = Relay(store, broker, settings=SETTINGS, hooks=told)

    async def lost():
        raise LeaseLost

    async with running(relay):
        await until(lambda: told.topics, "the first answer")
        assert relay.postponed == {"bad": "ConnectionError: no queue is bound"}
        broker.mended = True
        monkeypatch.setattr(relay._serving.looking, "look", lost)
        await drained(relay)
        assert relay.postponed == {}
    assert told.topics == ["bad: no queue is bound", "bad flows"]


async def test_a_topic_that_rests_leaves_room_for_the_others(store, monkeypatch):
    """P7, H26, H192: while it waits for its next try it keeps a share of the memory, not all: the others go on."""
    for name in ("_SHORTEST", "_LONGEST"):
        monkeypatch.setattr(topics, name, 3600.0)
    outbox, broker = Outbox(store), Troubled(UNKNOWN, ordered=False)
    bad = await add(store, outbox, [Bad(name=f"bad {n}") for n in range(2 * SETTINGS.read_ahead)])
    relay = Relay(store, broker, settings=SETTINGS)
    async with running(relay):
        await until(lambda: relay._serving and relay._serving.pauses.topics.resting(store.clock.monotonic()), "a pause")
        asked = len(broker.asked)
        good = await add(store, outbox, [Good(name=f"good {n}") for n in range(100)])
        await until(lambda: broker.stored_ids >= set(good), "the good ones to go out")
        assert len(broker.asked) == asked < len(bad), "it was still resting"
        broker.mended = True


@pytest.mark.parametrize("ordered", [False, True], ids=["one by one", "ordered prefix"])
async def test_refusals_that_are_slow_to_write_leave_room_for_the_others(store, ordered, monkeypatch):
    """P7, H26, H192: what is refused waits to be written as a dead letter; the others do not wait for that."""
    may_write, fail = asyncio.Event(), HoldingStore.fail

    async def slow(*given, **named):
        await may_write.wait()
        return await fail(*given, **named)

    monkeypatch.setattr(HoldingStore, "fail", slow)
    outbox, broker, settings = Outbox(store), Troubled(REJECTED, ordered=ordered), replace(SETTINGS, read_ahead=200)
    bad = await add(store, outbox, [Bad(name=f"bad {n}") for n in range(2 * settings.read_ahead)])
    relay = Relay(store, broker, settings=settings)
    async with running(relay):
        good = await add(store, outbox, [Good(name=f"good {n}") for n in range(300)])
        await until(lambda: broker.stored_ids >= set(good), "the good ones to go out")
        may_write.set()
        await drained(relay)
    assert {row.message_id for row in await rows(store, sa.select(dead_letter_table))} == set(bad)
    assert not await ids(store)


@pytest.mark.parametrize("read_ahead", [1, 2, 3])
@pytest.mark.parametrize("ordered", [False, True], ids=["one by one", "ordered prefix"])
async def test_refusals_come_to_an_end_in_the_smallest_memory(store, ordered, read_ahead):
    """P1, P7, H26, H192: with room for hardly a message, what is refused is a dead letter and the rest goes out."""
    outbox, broker = Outbox(store), Troubled(REJECTED, ordered=ordered)
    bad = await add(store, outbox, [Bad(name=f"bad {n}") for n in range(8)])
    good = await add(store, outbox, [Good(name=f"good {n}") for n in range(4)])
    relay = Relay(store, broker, settings=replace(SETTINGS, read_ahead=read_ahead))
    async with running(relay):
        await drained(relay)
    assert broker.stored_ids == set(good)
    assert {row.message_id for row in await rows(store, sa.select(dead_letter_table))} == set(bad)
