"""Messages that no attempt can bring to an end: each holds up its own key for a moment, never for good."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pydantic import field_validator

from inbox.support import Noted, World, note, quick, running
from txpatterns.inbox import Transaction
from txpatterns.messages import Event, Message
from txpatterns.transport import from_wire

pytestmark = pytest.mark.one_driver


class Priced(Event, topic="notes", type="note.priced", key="book", version="3.0"):
    book: str
    total: Decimal

    @field_validator("total", mode="before")
    @classmethod
    def money(cls, value: object) -> Decimal:
        return Decimal(str(value))  # raises InvalidOperation, which is no ValueError


def impossible_instant(world: World) -> Message:
    headers = {"message-id": "bad", "ordering-key": "a", "occurred-at": "0001-01-01T00:00:00+14:00"}
    return from_wire("notes", b"no json", {**headers, "message-type": "note.added"}, fallback_id="x")


def failing_validator(world: World) -> Message:
    message = world.message(Priced(book="a", total=Decimal(1)), "bad")
    return message._replace(payload=message.payload.replace(b'"total":"1"', b'"total":"abc"'))


def circular_upcasters(world: World) -> Message:
    for before, after in (("1.0", "2.0"), ("2.0", "1.0")):
        world.registry.upcast("note.priced", from_version=before, to_version=after)(lambda fields: fields)
    message = world.message(Priced(book="a", total=Decimal(1)), "bad")
    return message._replace(payload=message.payload.replace(b'"3.0"', b'"1.0"'))


@pytest.mark.parametrize("poison", [impossible_instant, failing_validator, circular_upcasters])
async def test_what_cannot_be_read_holds_its_key_up_for_a_moment_only(world, poison: Callable[[World], Message]):
    """P7, H24: whatever reading it raises, the message is a dead letter and the next of its key is handled."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    @consumer.on(Priced)
    async def priced(event: Priced, tx: Transaction) -> None:
        raise AssertionError("never")

    world.broker.put(poison(world), world.message(Noted(book="a", number=1)))
    async with running(consumer):
        await world.broker.all_acked()
    assert [(letter.message_id, letter.reason) for letter in await world.dead()] == [("bad", "undecodable")]
    assert await world.effects() == [("a", 1)]


@pytest.mark.parametrize("attempts", [1, 2])
async def test_an_error_text_that_is_no_unicode_is_stored_all_the_same(world, attempts):
    """P7, H24: half a surrogate pair in a handler's error is written out, while it waits and when it is dead."""
    consumer = world.consumer(policies=quick(attempts))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if event.number == 1:
            raise ValueError("unknown sku \ud83d")
        await tx.session.execute(note(event.book, event.number))

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts) == ("exhausted", attempts)
    assert "unknown sku \\ud83d" in letter.error
    assert await world.effects() == [("a", 2)]


async def test_an_error_that_nobody_foresaw_is_not_repeated_for_ever(world, monkeypatch, caplog):
    """P7, H24: what is neither the database's nor the broker's error ends as a dead letter, and is told in full."""
    consumer = world.consumer(policies=quick(1))
    admit = consumer._consuming.processing.lanes.bury_first

    def broken(connection, entry, **rest):
        if entry.message.id == "bad":
            raise LookupError("a bug of our own")
        return admit(connection, entry, **rest)

    monkeypatch.setattr(consumer._consuming.processing.lanes, "bury_first", broken)

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if event.number == 1:
            raise ValueError("no")
        await tx.session.execute(note(event.book, event.number))

    world.broker.put(world.message(Noted(book="a", number=1), "bad"), world.message(Noted(book="a", number=2)))
    async with running(consumer):
        await world.broker.all_acked()
    (letter,) = await world.dead()
    assert (letter.message_id, letter.consumer, letter.reason) == ("bad", "app", "unexpected")
    assert "a bug of our own" in letter.error
    assert world.told.counts["dead"] == 1
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    assert await world.effects() == [("a", 2)]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59-14:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("yesterday", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_from_outside_is_one_that_can_be_stored(text, instant):
    """H69, H99: read in UTC; what is no point in time there is the beginning of time, like an unreadable one."""
    found = from_wire("notes", b"", {"occurred-at": text}, fallback_id="x").occurred_at
    assert (found, found.tzinfo) == (instant, UTC)
