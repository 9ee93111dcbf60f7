"""Messages of producers who know nothing of this library: who they are, what they are, and that they say nothing."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from inbox.support import Noted, World, effects, note, quick, running
from txpatterns.inbox import Consumer, Transaction
from txpatterns.messages import TOMBSTONE, Event, Message
from txpatterns.outbox.schema import outbox_table
from txpatterns.serialization import CloudEventsBinary, CloudEventsStructured, EnvelopeCodec, RawCodec
from txpatterns.transport import from_wire

BODY = {"book": "a", "number": 1}
STORED_AT = datetime(2026, 2, 1, tzinfo=UTC)


def came(payload: object, place: str, headers: dict[str, str] | None = None, at: datetime = STORED_AT) -> Message:
    """Make a message as an adapter does of a stranger's record."""
    named = {"ordering-key": "a", "occurred-at": at.isoformat(), **(headers or {})}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return from_wire("notes", body, named, fallback_id=place)


def binary(own: str, source: str = "/dotnet", place: str = "notes/0/1") -> Message:
    attributes = {"ce_specversion": "1.0", "ce_id": own, "ce_source": source, "ce_type": "note.added"}
    return came(BODY, place, attributes)


def structured(own: object, source: str = "/dotnet", place: str = "notes/0/1") -> Message:
    attributes = {"specversion": "1.0", "id": own, "source": source, "type": "note.added", "data": BODY}
    return came(attributes, place, {"content-type": "application/cloudevents+json"})


def envelope(own: object, place: str = "notes/0/1") -> Message:
    return came({"event_type": "note.added", "event_id": own, "payload": BODY}, place)


def listening(world: World) -> Consumer:
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    return consumer


async def handle(world: World, *messages: Message) -> None:
    world.broker.put(*messages)
    async with running(listening(world)):
        await world.broker.all_acked()


# ---------------------------------------------------------------------- who they are


@pytest.mark.parametrize(
    ("codec", "make", "own"),
    [
        (CloudEventsBinary("/x"), binary, "/dotnet e-1"),
        (CloudEventsStructured("/x"), structured, "/dotnet e-1"),
        (CloudEventsStructured("/x"), binary, "/dotnet e-1"),
        (CloudEventsBinary("/x"), structured, "/dotnet e-1"),
        (EnvelopeCodec(), envelope, "e-1"),
    ],
)
async def test_a_producer_that_repeats_itself_has_one_effect(world, codec, make, own):
    """P2, H50, H211: the id is that of the format, so it does not matter in how many places the message lies."""
    world.registry.codec = codec
    await handle(world, make("e-1"), make("e-1", place="notes/0/2"), make("e-2", place="notes/0/3"))
    assert await world.effects() == [("a", 1)] * 2
    assert [row.message_id for row in await world.inbox()] == [own, own.replace("e-1", "e-2")]
    assert world.told.counts["duplicate"] == 1


@pytest.mark.parametrize(
    ("codec", "make", "own"),
    [(CloudEventsStructured("/x"), structured, "/dotnet 7"), (EnvelopeCodec(), envelope, "7")],
)
async def test_an_id_that_is_a_number_is_an_id(world, codec, make, own):
    """P2, H211: a producer that numbers its messages and repeats itself has one effect, too."""
    world.registry.codec = codec
    await handle(world, make(7), make(7, place="notes/0/2"))
    assert await world.effects() == [("a", 1)]
    assert [row.message_id for row in await world.inbox()] == [own]


async def test_data_in_base64_is_read(sqlite_world):
    """P1: CloudEvents allow it in the structured form; what is no base64 is a dead letter."""
    sqlite_world.registry.codec = CloudEventsStructured("/x")
    written = base64.b64encode(json.dumps(BODY).encode()).decode()
    attributes = {"specversion": "1.0", "source": "/s", "type": "note.added"}
    good, bad = ({**attributes, "id": data, "data_base64": data} for data in (written, "no base64"))
    await handle(sqlite_world, came(good, "notes/0/1"), came(bad, "notes/0/2"))
    assert await sqlite_world.effects() == [("a", 1)]
    assert ["no base64" in letter.error for letter in await sqlite_world.dead()] == [True]


async def test_two_sources_with_the_same_ids_are_two_messages(world):
    """P2, H50: the id of a CloudEvent is unique only within its source."""
    world.registry.codec = CloudEventsBinary("/x")
    sources = ["/java", "/dotnet", "/dotnet%20e", "/dotnet e"]
    await handle(world, *[binary("1", source, f"notes/0/{place}") for place, source in enumerate(sources)])
    assert await world.effects() == [("a", 1)] * 3
    assert sorted(row.message_id for row in await world.inbox()) == ["/dotnet 1", "/dotnet%20e 1", "/java 1"]


@pytest.mark.parametrize("own", ["", None, True, 7.5, ["e-1"]])
async def test_what_is_no_id_is_none(world, own):
    """P2: then it is known by its place."""
    await handle(world, envelope(own), envelope(own, place="notes/0/2"), envelope(own))
    assert await world.effects() == [("a", 1)] * 2


async def test_a_long_id_is_cut_and_stays_itself(world):
    """P2, P7: a source is a URI of any length; its messages are no dead letters for that."""
    world.registry.codec = CloudEventsBinary("/x")
    source = "https://example.org/" + "x" * 300
    await handle(world, binary("1", source), binary("1", source, "notes/0/2"), binary("2", source, "notes/0/3"))
    assert await world.effects() == [("a", 1)] * 2
    assert await world.dead() == []


async def test_a_topic_that_was_made_anew_has_other_messages_in_the_same_places(world):
    """P2, H211: equal or not, what was stored at another time is another message; a redelivery is the same."""
    world.registry.codec = RawCodec()
    typed = {"message-type": "note.added"}
    later = STORED_AT + timedelta(milliseconds=1)
    first, equal = came(BODY, "notes/0/0", typed), came(BODY, "notes/0/0", typed, later)
    other = came({**BODY, "number": 2}, "notes/0/0", typed)
    await handle(world, first, first, equal, equal, other)
    assert await world.effects() == [("a", 1), ("a", 1), ("a", 2)]
    assert await world.dead() == []
    assert len({row.message_id for row in await world.inbox()}) == 3


async def test_what_our_own_producers_say_stands(world):
    """P2: an id and a type in the headers stand, also where no class has that type here."""
    message = world.message(Noted(book="a", number=1), "own-id")
    assert world.registry.named(message) is message


# ---------------------------------------------------------------------- what they are


async def test_a_type_that_nobody_knows_does_not_hide_that_of_the_body(world):
    """P7, H69: the header names a class of the producer's, or is written as JSON; the envelope says what it is."""
    quoted = envelope("e-1")._replace(type='"note.added"')
    java = envelope("e-2", place="notes/0/2")._replace(type="com.acme.NoteAdded")
    named = envelope("e-3", place="notes/0/3")._replace(id="own", type='"note.added"')
    await handle(world, quoted, java, named)
    assert await world.effects() == [("a", 1)] * 3
    assert sorted(row.message_id for row in await world.inbox()) == ["e-1", "e-2", "own"]


async def test_a_body_whose_type_nobody_handles_is_acknowledged(world):
    """P7: as one whose header says so; a topic may carry more than one wants."""
    unknown = came({"event_type": "note.burnt", "event_id": "e-1", "payload": {}}, "notes/0/1")
    await handle(world, unknown)
    assert (await world.effects(), await world.dead()) == ([], [])


# ---------------------------------------------------------------------- what is emitted for them


@pytest.mark.parametrize("own", ["line\nend", "é", "tab\tin", "\x7f", "a b"])
@pytest.mark.parametrize("where", ["id", "correlation"])
async def test_what_a_stranger_calls_itself_does_not_stop_what_a_handler_emits(world, own, where):
    """P7, H53, H149: ids that no header may hold are cleaned, and the handler's effect is committed."""
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        tx.emit(Noted(book=event.book, number=2))

    message = world.message(Noted(book="a", number=1))
    message = message._replace(id=own) if where == "id" else message._replace(headers={"correlation-id": own})
    world.broker.put(message)
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.dead() == []
    (row,) = await world.rows(outbox_table)
    headers = json.loads(row.headers)
    assert all(value.isascii() and value.isprintable() and " " not in value for value in headers.values())


# ---------------------------------------------------------------------- tombstones


class Burnt(Event, topic="notes", type="note.burnt", key="book", tombstone=True):
    book: str


def tombstone(place: str, **headers: str) -> Message:
    named = {"ordering-key": "a", "content-type": TOMBSTONE, "occurred-at": STORED_AT.isoformat(), **headers}
    return from_wire("notes", b"", named, fallback_id=place)


STRANGE = {"message-type": "note.added", "message-id": "t-1"}


@pytest.mark.parametrize("headers", [{}, STRANGE], ids=["bare", "with the type of the others"])
async def test_a_tombstone_that_nobody_handles_is_acknowledged(world, headers):
    """P7, H212: it is no message that could not be read."""
    await handle(world, tombstone("notes/0/1", **headers), envelope("e-1", place="notes/0/2"))
    assert (await world.effects(), await world.dead()) == ([("a", 1)], [])


@pytest.mark.parametrize("headers", [{}, STRANGE], ids=["bare", "with the type of the others"])
async def test_a_tombstone_is_handled_once_and_in_the_order_of_its_key(world, headers):
    """P2, P3, H212: a handler of both sees them in order, also when the tombstone needs a second attempt."""
    consumer = world.consumer(policies=quick(2))
    failures = iter([True])

    @consumer.on(Noted)
    @consumer.on(Burnt)
    async def kept(event: Noted | Burnt, tx: Transaction) -> None:
        if isinstance(event, Noted):
            await tx.session.execute(note(event.book, event.number))
            return
        await tx.session.execute(sa.delete(effects).where(effects.c.key == event.book))
        if next(failures, False):
            raise ConnectionError

    gone = tombstone("notes/0/2", **headers)
    world.broker.put(envelope("e-1"), gone, gone, envelope("e-2", place="notes/0/3"))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 3)
    assert await world.effects() == [("a", 1)]
    assert await world.dead() == []


async def test_a_tombstone_whose_key_does_not_fit_is_a_dead_letter(world):
    """P7, H106: as any other message that its class cannot read."""

    class Numbered(Event, topic="notes", type="note.numbered", key="number", tombstone=True):
        number: int

    consumer = world.consumer()

    @consumer.on(Numbered)
    async def numbered(event: Numbered, tx: Transaction) -> None:
        raise AssertionError("never")

    world.broker.put(tombstone("notes/0/1"))
    async with running(consumer):
        await world.broker.all_acked()
    (letter,) = await world.dead()
    assert (letter.reason, letter.key, letter.content_type) == ("undecodable", "a", TOMBSTONE)


# ---------------------------------------------------------------------- one type on two topics


class Eu(Event, topic="eu.notes", type="note.sold", key="book"):
    book: str
    number: int


class Us(Eu, topic="us.notes"): ...


async def test_each_topic_of_a_type_has_its_own_handlers(world):
    """P2, P3, H213: a function may take both, and each class of them gets what came on its topic."""
    consumer, seen = world.consumer(policies=quick(2)), []
    failures = iter([True, True])

    async def sold(event: Eu, tx: Transaction) -> None:
        if next(failures, False):
            raise ConnectionError
        seen.append(type(event))
        await tx.session.execute(note(event.book, event.number))

    consumer.on(Eu)(sold)
    consumer.on(Us)(sold)

    @consumer.on(Eu, name="of_eu")
    async def of_eu(event: Eu, tx: Transaction) -> None:
        seen.append("of_eu")

    world.put(Eu(book="a", number=1), Us(book="b", number=2))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 3)
    assert sorted(map(str, seen)) == sorted(map(str, [Eu, Us, "of_eu"]))
    assert consumer.handlers.topics == ["eu.notes", "us.notes"]


async def test_a_class_of_the_other_topic_never_reaches_a_handler(world):
    """P2, H213: what is known, and handled by nobody, is acknowledged, and given to no handler of its namesake."""
    consumer, seen = world.consumer(), []
    world.registry.register(Us)

    @consumer.on(Eu)
    async def sold(event: Eu, tx: Transaction) -> None:
        seen.append(type(event))

    world.put(Us(book="b", number=2), Eu(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert seen == [Eu]
    assert await world.dead() == []
