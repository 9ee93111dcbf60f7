"""Dead letters that could not be published, sent again or dropped by an operator while relays run."""

import asyncio
import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import REFUSED, STORED, ScriptedBroker
from outbox.support import WAITING, ids, open_database, rows
from outbox.test_relay import QUICK, drained, fill, running
from txpatterns.admin import Deed, Reader, drop, find_letters, in_order, read_audit, retry
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.errors import LetterKept, SchemaError
from txpatterns.inbox.handlers import Handlers
from txpatterns.outbox import Outbox, Relay
from txpatterns.outbox.schema import outbox_table, waiting_table
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.serialization import EventRegistry

pytestmark = pytest.mark.one_driver

DEED = Deed("tester", "mended")
READER = Reader(Handlers("app"), EventRegistry())
QUICKLY = RetryLadder((timedelta(milliseconds=1),))


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


@pytest.fixture
def outbox(store):
    return Outbox(store)


def relay_of(store, broker, policy):
    return Relay(store, broker, settings=QUICK, policies=FailurePolicies(FailurePolicy(policy, QUICKLY)))


async def letters(store):
    return in_order(await store.read(find_letters))


def refusing(*numbers):
    return lambda message: REFUSED if json.loads(message.payload)["payload"]["n"] in numbers else STORED


async def left(store):
    """How many messages are to be published or wait for that, in one look."""
    counts = [
        sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (outbox_table, waiting_table)
    ]
    return await store.read(lambda connection: connection.execute(sa.select(counts[0], counts[1])).one())


async def settled(condition):
    async with asyncio.timeout(120):
        while not await condition():  # noqa: ASYNC110 - the database changes, and tells nobody
            await asyncio.sleep(0.01)


async def dies(store, outbox, broker, refused=(0,), each=4):
    """A key of which some messages are refused for good; gives the ids of the key, and waits until all is written."""
    broker.decide = refusing(*refused)
    added = (await fill(store, outbox, ["k"], each))["k"]

    async def written():
        return len(await letters(store)) == len(refused) and not await ids(store)

    await settled(written)
    broker.decide = lambda _: STORED
    return added


async def quiet(store):
    async def nothing():
        return await left(store) == (0, 0)

    await settled(nothing)


async def test_a_parked_key_goes_on_behind_its_dead_letter(store, outbox):
    """P1, P3, H250, H251: sent again with its id and bytes, before everything that is parked behind it."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.PARK)
    async with running(relay):
        added = await dies(store, outbox, broker)
        assert [row.state for row in await rows(store, WAITING)] == ["parked"] * 3
        (letter,) = await letters(store)
        payload = (await rows(store, sa.select(dead_letter_table.c.payload)))[0].payload
        await retry(store, READER, letter.id, DEED)
        await quiet(store)
    assert broker.first_of_key == {"k": added}
    assert broker.wire[0].payload == payload
    assert await letters(store) == []


async def test_a_parked_key_goes_on_without_its_dead_letter(store, outbox):
    """P3, H252: a dropped message holds up nobody; what was parked behind it is sent in its order."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.PARK)
    async with running(relay):
        added = await dies(store, outbox, broker)
        (letter,) = await letters(store)
        await drop(store, letter.id, DEED)
        await quiet(store)
    assert broker.first_of_key == {"k": added[1:]}


@pytest.mark.parametrize("deed", ["retry", "drop"])
async def test_a_key_parked_with_nobody_behind_it_is_free_again(store, outbox, deed):
    """P3, H252: a relay that remembers the key as parked learns that it is not, when the next message comes."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.PARK)
    async with running(relay):
        (dead,) = await dies(store, outbox, broker, each=1)
        (letter,) = await letters(store)
        await (retry(store, READER, letter.id, DEED) if deed == "retry" else drop(store, letter.id, DEED))
        later = (await fill(store, outbox, ["k"], 2))["k"]
        await quiet(store)
    assert broker.first_of_key == {"k": [dead, *later] if deed == "retry" else later}


async def test_a_key_stays_parked_as_long_as_a_dead_letter_of_it_is_left(store, outbox):
    """P3, H252: what comes while nobody has decided yet is parked, as before."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.PARK)
    async with running(relay):
        await dies(store, outbox, broker, each=1)
        await fill(store, outbox, ["k"], 1)

        async def parked():
            return [row.state for row in await rows(store, WAITING)] == ["parked"]

        await settled(parked)
    assert broker.wire == []


async def test_dead_letters_of_one_key_are_sent_again_in_its_order(store, outbox):
    """P3, H251: also in the order in which they are not given; new messages of the key come after them."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.HOLD)
    async with running(relay):
        added = await dies(store, outbox, broker, refused=(0, 1, 3))
        assert broker.first_of_key == {"k": [added[2]]}
        for letter in await letters(store):
            await retry(store, READER, letter.id, DEED)
        later = (await fill(store, outbox, ["k"], 2))["k"]
        await drained(relay)
    assert broker.first_of_key == {"k": [added[2], added[0], added[1], added[3], *later]}
    assert set(broker.copies.values()) == {1}


async def test_a_dead_letter_takes_its_old_place_where_its_key_is_held_up(store, outbox):
    """P3, H251: behind the message that is being retried, and before those that came after it."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.PARK)
    async with running(relay):
        added = await dies(store, outbox, broker)
        (letter,) = await letters(store)
        broker.before = lambda _: asyncio.Event().wait()  # what is sent now is under way until the end
        await retry(store, READER, letter.id, DEED)
        states = {row.message_id: row.state for row in await rows(store, WAITING)}
    assert states == {added[0]: "retrying", **dict.fromkeys(added[1:], "behind")}


async def test_what_is_done_is_written_down_and_done_once(store, outbox):
    """P7, H253: the row commits with the deed; a second operator is told that it is gone."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.HOLD)
    async with running(relay):
        added = await dies(store, outbox, broker, each=1)
    (letter,) = await letters(store)
    await drop(store, letter.id, DEED)
    for again in (retry(store, READER, letter.id, DEED), drop(store, letter.id, DEED)):
        with pytest.raises(LetterKept, match="no dead letter"):
            await again
    (entry,) = await store.read(read_audit)
    assert (entry.who, entry.action, entry.reason) == ("tester", "drop", "mended")
    assert (entry.dead_letter, entry.message_id, entry.died_of) == (letter.id, added[0], "rejected")


async def test_nothing_is_done_where_it_cannot_be_written_down(store, outbox):
    """P7, H253, H100: on the tables of the release before, a deed changes nothing and names the command."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.HOLD)
    async with running(relay):
        await dies(store, outbox, broker, each=1)
    (letter,) = await letters(store)
    await store.execute(sa.text("DROP TABLE txp_audit"))
    with pytest.raises(SchemaError, match="txp db upgrade"):
        await retry(store, READER, letter.id, DEED)
    assert await letters(store) == [letter]
    assert await store.read(read_audit) == []


async def test_one_that_is_in_the_outbox_again_stays(store, outbox):
    """P2, H250: a message that somebody has sent anew under its id is not sent a second time."""
    broker = ScriptedBroker()
    relay = relay_of(store, broker, OnFailure.HOLD)
    async with running(relay):
        await dies(store, outbox, broker, each=1)
    (letter,) = await letters(store)
    await store.transact(copy_back)
    with pytest.raises(LetterKept, match="in the outbox already"):
        await retry(store, READER, letter.id, DEED)
    assert await letters(store) == [letter]


def copy_back(connection):
    names = "message_id, topic, type, key, payload, headers, content_type, occurred_at"
    query = f"INSERT INTO txp_outbox (bucket, {names}) SELECT 1, {names} FROM txp_dead_letter"
    connection.execute(sa.text(query))
