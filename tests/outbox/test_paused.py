"""A relay that is stopped in the middle of a publication to a real Kafka, and goes on when another has its keys."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product

import pytest
import sqlalchemy as sa

from brokers.kafka_tools import ids_of, stored
from outbox.pausing import PLACES, SETTINGS
from outbox.support import ids, open_database, session_of
from outbox.test_relay import drained
from rig.waiting import until
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.messages import Event
from txpatterns.outbox import Outbox, Relay
from txpatterns.outbox.relay.sending import Sending
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.outbox.relay.unseen import Unseen

LIVE = sa.text("SELECT count(*) FROM txp_member WHERE expires_at > clock_timestamp()")


class Gate:
    """Lets so many pass, and keeps the next one until it is opened."""

    def __init__(self, passing):
        self._passing = passing
        self._open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self):
        if self._passing:
            self._passing -= 1
            return
        self.reached.set()
        await self._open.wait()

    def open(self):
        self._open.set()


# How far the other relay is when the first goes on: what it is kept from, and how many times it may do that before.
PROGRESS = {
    "is not there yet": None,
    "owns all, has read nothing": (OutboxStore, "page", 0),
    "has read, sent nothing": (Sending, "_outcomes", 0),
    "has sent the first": (Sending, "_outcomes", 1),
    "has sent some, settled nothing": (OutboxStore, "settle", 0),
    "has settled some": (OutboxStore, "settle", 1),
    "has sent all and more": (OutboxStore, "settle", 1000),
}


@asynccontextmanager
async def kept_from(progress, monkeypatch):
    """A gate before one step of every relay in this process."""
    if progress is None:
        yield None
        return
    owner, name, passing = progress
    gate, real = Gate(passing), getattr(owner, name)

    async def gated(*given, **named):
        await gate()
        return await real(*given, **named)

    monkeypatch.setattr(owner, name, gated)
    yield gate
    gate.open()


USUAL = {"has read, sent nothing", "has settled some"}
CASES = [
    pytest.param(place, progress, way, marks=[] if progress in USUAL and way == "prefix" else pytest.mark.soak)
    for place, progress, way in product(PLACES, PROGRESS, ("prefix", "one by one"))
]


@pytest.mark.parametrize(("place", "progress", "way"), CASES)
async def test_a_stopped_relay_inverts_nothing(place, progress, way, database, own_kafka, child, tmp_path, monkeypatch):
    """P1, P3, H18, H19, H23, H191: wherever it stood, however far its successor is: first publications keep order.

    With several messages of a key under way, and with one at a time, as for brokers that keep no ordered prefix.
    """
    found, added = await story(place, progress, way, (database, own_kafka, child, tmp_path, monkeypatch))
    assert list(dict.fromkeys(found)) == added
    if progress in USUAL and place != "with a page read":
        assert len(found) > len(added), "the first relay sent nothing when it went on, so this proved nothing"


async def test_a_successor_that_trusts_the_first_is_noticed(database, own_kafka, child, tmp_path, monkeypatch):
    """P3: the test of the tests above: one that begins behind what the first had read inverts the key."""
    page = OutboxStore.page

    async def behind(self, place, *bounds):
        return await page(self, replace(place, after=max(place.after, 4), unseen=Unseen(first=1 << 62)), *bounds)

    monkeypatch.setattr(OutboxStore, "page", behind)
    given = (database, own_kafka, child, tmp_path, monkeypatch)
    found, added = await story("before handing over", "has settled some", "prefix", given)
    assert set(found) == set(added)
    assert list(dict.fromkeys(found)) != added


async def story(place, progress, way, given):
    """One relay stops, another takes over, the first goes on: gives the ids as they were stored, and as added."""
    database, kafka, child, folder, monkeypatch = given
    url = database.url("asyncpg")
    with kafka.topics() as topics:
        topic = topics.create(partitions=1)

        class Noted(Event, topic=topic, type="noted", key="key"):
            key: str

        async with open_database(url) as store:
            outbox, added = Outbox(store), []

            async def add(count):
                for _ in range(count):
                    async with session_of(store) as session, session.begin():
                        added.append(outbox.add(session, Noted(key="k")))

            await add(6)
            process = child("-m", "outbox.pausing", url, kafka.bootstrap, place, way)
            await stopped(process, place, kafka, folder)
            await until(lambda: lease_over(store), "the lease to run out")
            broker = KafkaBroker.from_url(f"kafka://{kafka.bootstrap}")
            broker.capabilities = replace(broker.capabilities, ordered_prefix=way == "prefix")
            async with kept_from(PROGRESS[progress], monkeypatch) as gate, broker:
                if gate is None:
                    await on_again(process, place)
                relay = Relay(store, broker, settings=SETTINGS)
                running = asyncio.ensure_future(relay.run())
                if gate is not None:
                    await add(3)
                    waiting = asyncio.ensure_future(gate.reached.wait())
                    await asyncio.wait(
                        (waiting, asyncio.ensure_future(drained(relay))), return_when=asyncio.FIRST_COMPLETED
                    )
                    await on_again(process, place)
                    gate.open()
                await add(3)
                await until(lambda: empty(store), "all to be published")
                process.sigterm()
                assert await asyncio.to_thread(process.wait) == 0, process.output
                relay.stop()
                await running
        found = ids_of(stored(kafka.bootstrap, topic))
    return found, added


async def stopped(process, place, kafka, folder):
    """Wait until it has stopped there."""
    if place != "with all in flight":
        await asyncio.to_thread(process.wait_for, "stops here")
        return
    await asyncio.to_thread(process.wait_for, "is about to send")
    kafka.pause()
    (folder / "send").touch()
    await asyncio.to_thread(process.wait_for, "stops here")
    kafka.resume()


async def on_again(process, place):
    """Let it go on, and wait until it has found that its lease is lost, and has joined again."""
    joined = len([line for line in process.lines if line.startswith("owns")])
    process.cont()
    await asyncio.to_thread(process.wait_for, "owns", times=joined + 1)


async def one(store, query):
    return await store.read(lambda connection: connection.execute(query).one())


async def lease_over(store):
    return (await one(store, LIVE))[0] == 0


async def empty(store):
    return not await ids(store)
