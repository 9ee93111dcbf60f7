"""Deliveries to handlers: the effect once, the acknowledgement after it."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from inbox.support import Echoed, Loose, Noted, eventually, note, quick, running
from txpatterns.correlation import CAUSATION_ID, CORRELATION_ID
from txpatterns.errors import ConfigurationError, Reject
from txpatterns.inbox import SyncTransaction, Transaction
from txpatterns.outbox.schema import outbox_table


async def test_an_effect_happens_once_for_a_hundred_copies(world):
    """P2, H43: the same message a hundred times, in one batch and in many, has one effect."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    message = world.message(Noted(book="a", number=1))
    world.broker.put(*[message] * 50)
    for _ in range(50):
        world.broker.put(message)
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    assert world.told.counts["duplicate"] == 99
    assert len(world.broker.acked) == 100


async def test_copies_without_a_key_run_at_the_same_time_and_have_one_effect(world):
    """P2, H43, H44: copies in lanes of their own meet in the database, and one of them wins."""
    consumer, other = world.consumer(), world.consumer()
    for each in (consumer, other):

        @each.on(Loose)
        async def noted(event: Loose, tx: Transaction) -> None:
            await tx.session.execute(note(None, event.number))

    messages = [world.message(Loose(number=number)) for number in range(10)]
    for _ in range(4):
        world.broker.put(*messages)
    async with running(consumer), running(other):
        await world.broker.all_acked()
    assert sorted(await world.effects()) == [(None, number) for number in range(10)]


async def test_the_acknowledgement_follows_the_commit(world):
    """P2, H51: when the broker hears of it, the effect is there for everybody to see."""
    seen = []
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    reader = sa.create_engine(world.database.sync_engine.url)

    def look(_message):
        with reader.connect() as connection:
            seen.append(connection.execute(sa.text("SELECT count(*) FROM effect")).scalar_one())

    world.broker.on_ack = look
    world.put(*[Noted(book="a", number=number) for number in range(3)])
    async with running(consumer):
        await world.broker.all_acked()
    reader.dispose()
    assert seen == [1, 2, 3]


async def test_each_handler_is_a_consumer_of_its_own(world):
    """P2: two handlers of one event have an effect each; when one fails, the other has had its own."""
    consumer = world.consumer(policies=quick())
    failures = iter([True])

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number, "first"))

    @consumer.on(Noted)
    def also(event: Noted, tx: SyncTransaction) -> None:
        tx.session.execute(note(event.book, event.number, "second"))
        if next(failures, False):
            raise ValueError("once")

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 2)
    assert {(row.consumer, row.message_id) for row in await world.inbox()} == {
        (name, world.broker.acked[0].id) for name in ("app.noted", "app.also")
    }
    assert len(await world.effects()) == 2


async def test_messages_that_a_handler_sends_keep_their_ids_when_it_runs_twice(world):
    """P2, H53: the second run sends the same ids, and they tell what caused them."""
    consumer = world.consumer(policies=quick())
    tried = []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        ids = [tx.emit(Echoed(book=event.book, number=number)) for number in range(2)]
        async with tx.session.begin_nested():
            await tx.session.execute(note(event.book, event.number))
        tried.append(ids)
        if len(tried) == 1:
            raise ValueError("once")

    message = world.message(Noted(book="a", number=1), "018df6f0-0000-7000-8000-000000000001")
    world.broker.put(message)
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 1)
    # As the first release has made them: another release, in a rolling deployment, may run the second attempt.
    assert tried[0] == tried[1] == ["018df6f0-0000-7722-b3b6-aa4b7e7b1426", "018df6f0-0000-787b-bf51-895560d9bccc"]
    stored = await world.rows(outbox_table)
    assert [row.message_id for row in stored] == tried[0]
    for row in stored:
        assert f'"{CORRELATION_ID}": "{message.id}"' in row.headers
        assert f'"{CAUSATION_ID}": "{message.id}"' in row.headers


async def test_another_message_under_a_known_id_is_kept_as_a_dead_letter(world):
    """P2, H49: the second content is not handled and not lost either."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    first, forged = (world.message(Noted(book="a", number=number), "same-id") for number in (1, 2))
    world.broker.put(first, forged, forged)
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    (dead,) = await world.dead()
    assert (dead.reason, bytes(dead.payload), dead.consumer) == ("id reused", forged.payload, "app.noted")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload": b"\xff not json"}, "undecodable"),
        ({"payload": b'{"event_type": "note.added", "payload": {"book": 1}}'}, "undecodable"),
        ({"id": "x" * 10_000}, "malformed"),
        ({"key": "nul\x00"}, "malformed"),
        ({"key": "half \ud800"}, "malformed"),
        ({"type": "t" * 300}, "malformed"),
    ],
)
async def test_what_cannot_be_read_or_stored_becomes_a_dead_letter_once(world, change, reason):
    """P7, H24, H106: nothing that a stranger sends blocks what follows it, and its bytes are kept."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    bad = world.message(Noted(book="a", number=1))._replace(**change)
    world.broker.put(bad, bad)
    world.put(Noted(book="a", number=2))
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 2)]
    (dead,) = await world.dead()
    assert (dead.reason, bytes(dead.payload), dead.consumer) == (reason, bad.payload, "app")


async def test_a_type_without_handler_is_acknowledged_and_told_once(world, caplog):
    """P7: another application's events on the same topic hold nothing up."""
    caplog.set_level("INFO", "txpatterns")
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    strange = world.message(Noted(book="a", number=1))._replace(type="note.burnt")
    world.broker.put(strange, strange, strange)
    async with running(consumer):
        await world.broker.all_acked()
    assert (await world.effects(), await world.dead()) == ([], [])
    assert len([line for line in caplog.messages if "note.burnt" in line]) == 1


async def test_a_strangers_header_does_not_hide_the_type_in_the_body(world):
    """P2, H69, H205: a Java class name or a quoted text in the header, and our type in the body."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    for number, header in enumerate(["com.acme.NoteAdded", '"note.added"', "com.acme.NoteAdded"]):
        world.broker.put(world.message(Noted(book="a", number=number))._replace(type=header, id=f"theirs-{number}"))
    world.broker.put(world.message(Loose(number=1))._replace(id="l2"))  # others handle it
    world.broker.put(world.message(Loose(number=2))._replace(id="l3", type="odd", payload=b"\xff"))
    world.broker.put(world.message(Noted(book="a", number=7))._replace(type="note.burnt"))  # who has our id knows
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 0), ("a", 1), ("a", 2)]
    assert await world.dead() == []


async def test_a_producer_that_names_the_type_only_in_the_body_is_understood(world):
    """P2: a message without our headers finds its handler, also at its second attempt."""
    consumer = world.consumer(policies=quick())
    failures = iter([True])

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if next(failures, False):
            raise ValueError("once")

    world.broker.put(world.message(Noted(book="a", number=1))._replace(type=""))
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 1)
    assert await world.effects() == [("a", 1)]


async def test_a_failed_acknowledgement_is_harmless(world):
    """P2, H51: the message comes again and is found to be handled."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    def refuse(_message):
        world.broker.on_ack = lambda _message: None
        raise ConnectionError("the broker has gone")

    world.broker.on_ack = refuse
    message = world.message(Noted(book="a", number=1))
    world.broker.put(message)
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 1)
        world.broker.open.clear()
        world.broker.put(message)
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]


async def test_the_lanes_hold_a_bounded_number_of_messages(world):
    """H146: a broker that gives out without end is made to wait."""
    consumer = world.consumer(max_in_flight=4)
    gate, most = asyncio.Event(), []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await gate.wait()
        most.append(consumer.in_flight)

    world.put(*[Noted(book=str(number % 7), number=number) for number in range(50)])
    async with running(consumer):
        await eventually(lambda: consumer.in_flight == 4)
        gate.set()
        await world.broker.all_acked()
        assert consumer.in_flight == 0
    assert len(most) == 50
    assert max(most) <= 4


async def test_emit_needs_an_outbox_and_a_handler_that_still_runs(sqlite_world):
    """P1: a message cannot be lost by adding it where nothing will commit it."""
    world = sqlite_world
    consumer = world.consumer(policies=quick(2))
    kept = []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        kept.append(tx)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    with pytest.raises(ConfigurationError, match="ended"):
        kept[0].emit(Echoed(book="a", number=1))


async def test_a_reject_makes_a_dead_letter_at_once_and_the_key_goes_on(world):
    """P3, H106, H107: no attempt is wasted, the dead letter is complete, and a copy of it is not handled again."""
    consumer = world.consumer()
    runs = Counter()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        runs[event.number] += 1
        await tx.session.execute(note(event.book, event.number))
        if event.number == 1:
            raise Reject("no such book")

    first, _ = world.put(Noted(book="a", number=1), Noted(book="a", number=2))
    world.broker.put(first)  # and once more, after its dead letter
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 2)]
    assert runs == {1: 1, 2: 1}
    (dead,) = await world.dead()
    assert (dead.reason, dead.attempts, dead.consumer, dead.message_id) == ("rejected", 1, "app.noted", first.id)
    assert (bytes(dead.payload), dead.key, dead.topic, dead.type) == (first.payload, "a", "notes", "note.added")
    assert dead.occurred_at == first.occurred_at
    assert dead.error.startswith("txpatterns.errors.Reject: no such book (at ")
    assert "test_handling.py" in dead.error


async def test_old_rows_are_forgotten_unless_the_message_may_come_again(world):
    """P2, H48: what waits or is dead is remembered, however old; the rest goes after the retention."""
    consumer = world.consumer(policies=quick(2, wait=3600))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    messages = world.put(*[Noted(book=str(number), number=number) for number in range(3)])
    forged = world.message(Noted(book="0", number=99), messages[0].id)
    world.broker.put(forged)
    async with running(consumer):
        await world.broker.all_acked()
    assert await consumer.inbox.clean(timedelta(hours=1)) == 0
    assert await consumer.inbox.clean(timedelta(hours=-1)) == 2
    assert [row.message_id for row in await world.inbox()] == [messages[0].id]
