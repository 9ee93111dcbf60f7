"""What cannot be sent is refused when it is added, before anything is stored."""

import pytest
from sqlalchemy.orm import Session

from outbox.support import Keyless, Money, Placed, open_sync
from txpatterns.errors import AddRefused, PayloadTooLarge
from txpatterns.messages import LONGEST_KEY
from txpatterns.outbox import Outbox


@pytest.fixture
def opened(tmp_path):
    with open_sync(f"sqlite:///{tmp_path / 'x.db'}") as (engine, outbox), Session(engine) as session:
        yield outbox, session


@pytest.mark.parametrize("letter", ["a", "ä", "字", "🙂"])
def test_size_is_counted_in_bytes_with_headers(opened, letter):
    """H14: the limit itself is accepted, one byte more is refused; headers and multibyte text count as on the wire."""
    outbox, session = opened
    headers = {"note": letter * 7}
    outbox.add(session, Money(text=letter * 20), headers=headers)
    (message,) = outbox.pending(session)
    assert message.size == len(message.payload) + len(b"note") + 7 * len(letter.encode())
    for limit, fits in ((message.size + 1, True), (message.size, True), (message.size - 1, False)):
        strict = Outbox(outbox.database, outbox.registry, max_payload=limit)
        if fits:
            strict.add(session, Money(text=letter * 20), headers=headers)
        else:
            with pytest.raises(PayloadTooLarge):
                strict.add(session, Money(text=letter * 20), headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "a\r\nset-cookie: b"},
        {"x": "a\x00"},
        {"x": "\ud800"},
        {"x y": "a"},
        {"": "a"},
        {"käse": "a"},
        {"x\n": "a"},
        {"txp-epoch": "1"},
        {"x": "a" * 20_000},
        {"x": 1},
    ],
)
def test_headers_cannot_carry_others(opened, headers):
    """H12: control characters, foreign alphabets, reserved names and endless values are refused."""
    outbox, session = opened
    with pytest.raises(AddRefused):
        outbox.add(session, Keyless(), headers=headers)
    assert outbox.pending(session) == []


@pytest.mark.parametrize("key", ["a\x00b", "\ud800"])
def test_keys_must_be_storable(opened, key):
    """H12: PostgreSQL stores no NUL, UTF-8 has no lone surrogate: told at once."""
    outbox, session = opened
    with pytest.raises(AddRefused):
        outbox.add(session, Placed.model_construct(order_id=key))


@pytest.mark.parametrize("message_id", ["x" * 65, "a b", "ä", "a\n"])
def test_ids_must_be_plain(opened, message_id):
    """H12: an id that a broker or a column would cut is refused."""
    outbox, session = opened
    with pytest.raises(AddRefused):
        outbox.add(session, Keyless(), message_id=message_id)


def test_what_was_added_does_not_change(opened):
    """H12: a list that is changed afterwards changes nothing that is stored."""
    outbox, session = opened
    tags = ["a"]
    event = Money.model_construct(tags=tags)
    outbox.add(session, event)
    tags.append("b")
    (message,) = outbox.pending(session)
    assert b'"b"' not in message.payload


@pytest.mark.parametrize("letter", ["a", "ä", "字", "🙂"])
def test_a_key_is_bounded_in_bytes(opened, letter):
    """H14, H193: what is added fits the indexes of all tables through which it may go; one byte more is refused."""
    outbox, session = opened
    longest = letter * (LONGEST_KEY // len(letter.encode()))
    longest += "a" * (LONGEST_KEY - len(longest.encode()))
    outbox.add(session, Placed(order_id=longest))
    with pytest.raises(AddRefused, match=f"{LONGEST_KEY + 1} bytes; the limit is {LONGEST_KEY}"):
        outbox.add(session, Placed(order_id=longest + "a"))
    assert [message.key for message in outbox.pending(session)] == [longest]
