"""What is on the wire never changes by accident: golden vectors, exact numbers, old versions, hostile bytes."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from outbox.support import Keyless, Money, Placed
from txpatterns.errors import DecodeError, EventDefinitionError, PayloadInvalid, UnknownType
from txpatterns.messages import Event, Message, bucket_of, derived_id, describe, milliseconds_of, new_id
from txpatterns.serialization import (
    CloudEventsBinary,
    CloudEventsStructured,
    EnvelopeCodec,
    EventRegistry,
    RawCodec,
)
from txpatterns.transport import from_wire, to_wire_headers


class Loose(Event, topic="loose", type="loose.said"):
    anything: Any


AT = datetime(2024, 2, 29, 23, 59, 59, 123456, UTC)
ID = "018df6f0-0000-7000-8000-000000000001"
CODECS = [EnvelopeCodec(), RawCodec(), CloudEventsBinary("/orders"), CloudEventsStructured("/orders")]
FIXTURES = Path(__file__).parent / "fixtures"


def encode(codec, event, message_id=ID):
    spec = describe(type(event))
    made = codec.encode(event, spec, message_id, AT)
    return Message(
        message_id, spec.topic, spec.type, made.payload, event.key_of(), dict(made.headers), made.content_type, AT
    )


# CRC-32 of "123456789" is 0xCBF43926 in every book.
BUCKETS = {"123456789": 0x26, "": 0, "order-42": 222, "käse": 247, "注文-1": 230, "a" * 1000: 3}


def test_buckets_are_for_ever():
    """H16: the bucket of a key is the same in every process and release."""
    assert {key: bucket_of(key) for key in BUCKETS} == BUCKETS
    code = "from txpatterns.messages import bucket_of; print([bucket_of(k) for k in ('order-42', 'k\\u00e4se')])"
    for salt in ("0", "1", "4242"):
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": salt}, check=True
        )
        assert said.stdout.strip() == str([BUCKETS["order-42"], BUCKETS["käse"]])


# Of scope, origin and the number of the message, as the first release has made them.
DERIVED = {
    ("billing", "018df6f0-0000-7abc-8def-0123456789ab", 0): "018df6f0-0000-7af6-ac22-6dbac5dc8be1",
    ("billing", "018df6f0-0000-7abc-8def-0123456789ab", 1): "018df6f0-0000-763d-b841-c9d01e06b11e",
    ("billing", "018df6f0-0000-7abc-8def-0123456789ab", 10): "018df6f0-0000-7cb7-a5a0-0d5b354ad1a4",
    ("shop.noted", "f47ac10b-58cc-4372-a567-0e02b2c3d479", 0): "00000000-0000-7e65-b87c-c8f65f3fd6fb",
    ("shop.noted", "order-42", 3): "00000000-0000-7b17-94d4-56488cfef464",
    ("shop.noted", "käse", 0): "00000000-0000-7db6-807b-3d75f6b59b75",
    ("shop.noted", "ffffffff-ffff-7fff-bfff-ffffffffffff", 0): "ffffffff-ffff-7de8-b116-0de382e7cbb5",
    ("shop.noted", "zzzzzzzz-zzzz-7zzz-zzzz-zzzzzzzzzzzz", 0): "00000000-0000-798b-ab8a-a4124de1e725",
    ("shop.noted", "018df6f000007abc8def0123456789ab", 0): "00000000-0000-712c-a208-d1bc19c0be9c",
    ("billing", ID, 0): "018df6f0-0000-7c55-9d41-29281d9fc428",
}


@pytest.mark.parametrize(("origin", "made"), DERIVED.items())
def test_derived_ids_are_for_ever(origin, made):
    """H53: a handler that runs again emits the same ids, with the time of its message, whichever release runs it."""
    scope, message_id, number = origin
    assert derived_id(scope, message_id, str(number), milliseconds_of(message_id)) == made


def test_derived_ids_differ_by_what_they_are_derived_from():
    """H53: another scope, another origin and another path give another id; the time is only what it sorts by."""
    given = [("a", "1", "0"), ("b", "1", "0"), ("a", "2", "0"), ("a", "1", "2.gather.1"), ("a", "1", "2.gather.2")]
    made = [derived_id(*one, 1_700_000_000_000) for one in given]
    assert len({one[13:] for one in made}) == len(given)
    assert {one[:13] for one in made} == {"018bcfe5-6800"}


def test_ids_grow_and_differ():
    """P6: ids made one after the other are all different, and sort by their time."""
    made = [new_id() for _ in range(5000)]
    assert len(set(made)) == len(made)
    assert [one[:18] for one in made] == sorted(one[:18] for one in made)
    assert all(one[14] == "7" and one[19] in "89ab" for one in made)


GOLDEN = (
    b'{"event_type":"order.placed","event_id":"018df6f0-0000-7000-8000-000000000001",'
    b'"occurred_at":"2024-02-29T23:59:59.123456+00:00","aggregate_id":"o-1","schema_version":"1.0",'
    b'"payload":{"order_id":"o-1","n":3}}'
)


def test_the_envelope_is_for_ever():
    """H12: the six fields, byte for byte."""
    message = encode(EnvelopeCodec(), Placed(order_id="o-1", n=3))
    assert message.payload == GOLDEN
    assert message.content_type == "application/json"
    assert list(json.loads(GOLDEN)) == [
        "event_type",
        "event_id",
        "occurred_at",
        "aggregate_id",
        "schema_version",
        "payload",
    ]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@given(
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    number=st.integers(-(2**63), 2**63 - 1),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    tags=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
)
def test_nothing_is_lost_on_the_way(codec, amount, number, text, tags):
    """H12, H13: decimals, 64-bit integers and text come back as they were, through the stored bytes and headers."""
    event = Money(amount=amount, number=number, text=text, tags=tags)
    registry = EventRegistry(codec)
    registry.register(Money)
    message = encode(codec, event)
    assert registry.read(message) == event
    came = from_wire(message.topic, message.payload, to_wire_headers(message), fallback_id="x")
    assert came == message
    fields = json.loads(message.payload)
    fields = fields.get("payload", fields.get("data", fields))
    assert isinstance(fields["amount"], str)
    assert isinstance(fields["number"], str)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize(
    "plain",
    [2**53, 2**53 + 1, 2**63 - 1, -(2**53) - 1, 9_999_999_999_999_999, 10**15, 10**5000],
    ids=lambda plain: f"{plain.bit_length()} bits",
)
def test_integers_that_readers_round_are_refused(codec, plain):
    """H13: a bare integer above 2**53 is refused when it is added; the largest exact one is not."""
    if abs(plain) > 2**53:
        with pytest.raises(PayloadInvalid):
            encode(codec, Money(plain=plain))
    else:
        assert encode(codec, Money(plain=plain)).payload


class Point(pydantic.BaseModel):
    """A model of somebody's, with pydantic's own way to write NaN: as null."""

    x: float
    note: str | None = None


@dataclass
class Span:
    to: float


class Drawn(Event, topic="drawings", type="drawing.drawn"):
    points: list[Point]
    span: Span | None = None
    extra: Any = None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_hides_in_a_model_inside_an_event(number):
    """H13: NaN in a nested model would be written as null; it is refused, and a null that is one is not."""
    fine = Point(x=1)
    assert b'"note":null' in encode(EnvelopeCodec(), Drawn(points=[fine])).payload
    for hidden in (
        {"points": [fine, Point(x=number)]},
        {"points": [], "span": Span(to=number)},
        {"points": [], "extra": {"deep": [Point(x=number)]}},
    ):
        with pytest.raises(PayloadInvalid):
            encode(EnvelopeCodec(), Drawn(**hidden))


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_not_a_number(rate):
    """H13: NaN and infinity cannot be written as JSON, and are refused."""
    with pytest.raises(ValueError, match="finite"):
        Money(rate=rate)
    with pytest.raises(PayloadInvalid):
        encode(EnvelopeCodec(), Money.model_construct(rate=rate, amount=Decimal(1)))
    with pytest.raises(PayloadInvalid):
        encode(EnvelopeCodec(), Loose(anything={"deep": [rate]}))
    assert encode(EnvelopeCodec(), Loose(anything="x: NaN, [Infinity")).payload


def test_what_cannot_be_written_is_refused():
    """H12: an object without a JSON form fails at once, not in the relay."""
    with pytest.raises(PayloadInvalid):
        encode(EnvelopeCodec(), Money.model_construct(tags=[object()]))
    with pytest.raises(PayloadInvalid):
        encode(EnvelopeCodec(), Money.model_construct(text="\ud800"))


def test_cloudevents_as_others_read_them():
    """Interoperability: the CloudEvents SDK reads both forms, and finds the same attributes."""
    event = Placed(order_id="o-1", n=3)
    structured = encode(CloudEventsStructured("/orders"), event)
    read = from_http(
        HTTPMessage({"content-type": structured.content_type}, structured.payload), JSONFormat(), CloudEvent
    )
    binary = encode(CloudEventsBinary("/orders"), event)
    headers = {name.replace("ce_", "ce-"): value for name, value in binary.headers.items()}
    again = from_http(
        HTTPMessage({**headers, "content-type": "application/json"}, binary.payload), JSONFormat(), CloudEvent
    )
    for one in (read, again):
        assert (one.get_id(), one.get_type(), one.get_source()) == (ID, "order.placed", "/orders")
        assert one.get_subject() == "o-1"
        assert one.get_time() == AT
        assert one.get_data() == {"order_id": "o-1", "n": 3}


class PlacedV3(Event, topic="orders", type="order.placed", key="order_id", version="3.0"):
    order_id: str
    count: int
    currency: str


def registry_of_today():
    registry = EventRegistry()
    registry.register(PlacedV3)

    @registry.upcast("order.placed", from_version="1.0", to_version="2.0")
    def renamed(fields):
        return {"order_id": fields["order_id"], "count": fields["n"]}

    @registry.upcast("order.placed", from_version="2.0", to_version="3.0")
    def with_currency(fields):
        return {**fields, "currency": "EUR"}

    return registry


def stored(payload, type_="order.placed"):
    return Message(ID, "orders", type_, payload, "o-1", {}, "application/json", AT)


def test_messages_stored_long_ago_are_read():
    """H100: bytes of version 1, as they lie in old topics, become today's event through each upcaster in turn."""
    assert registry_of_today().read(stored((FIXTURES / "order_placed_v1.json").read_bytes())) == PlacedV3(
        order_id="o-1", count=3, currency="EUR"
    )


def test_broken_upcasters_are_told():
    """A failing upcaster is a decode error; a circle is one too; two for one step are refused."""
    registry = EventRegistry()
    registry.register(PlacedV3)
    registry.upcast("order.placed", from_version="1.0", to_version="1.1")(lambda fields: {"missing": fields["nothing"]})
    with pytest.raises(DecodeError):
        registry.read(stored(GOLDEN))
    with pytest.raises(EventDefinitionError):
        registry.upcast("order.placed", from_version="1.0", to_version="9.0")(lambda fields: fields)
    circle = EventRegistry()
    circle.register(PlacedV3)
    circle.upcast("order.placed", from_version="1.0", to_version="1.1")(lambda fields: fields)
    circle.upcast("order.placed", from_version="1.1", to_version="1.0")(lambda fields: fields)
    with pytest.raises(DecodeError, match="in a circle"):
        circle.read(stored(GOLDEN))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@given(
    payload=st.one_of(st.binary(max_size=60), st.just(b"[" * 100_000), st.just(b"1" * 5000), st.just(b'{"a":' * 9999))
)
def test_hostile_bytes_are_a_decode_error(codec, payload):
    """H12: whatever arrives, the answer is one of ours, and nothing is made of it."""
    registry = EventRegistry(codec)
    registry.register(Placed)
    headers = {"ce_type": "order.placed", "ce_specversion": "1.0"}
    with pytest.raises(DecodeError):
        registry.read(stored(payload)._replace(headers=headers))


def test_only_registered_types_are_made():
    """H150: nothing in a message can name other code."""
    registry = EventRegistry()
    registry.register(Keyless)
    with pytest.raises(UnknownType):
        registry.read(stored(GOLDEN))
    assert pickle.loads(pickle.dumps(stored(GOLDEN))) == stored(GOLDEN)


def test_errors_and_reprs_hold_no_payload():
    """I17: what a message carries stays out of logs and errors."""
    registry = EventRegistry()
    registry.register(Placed)
    secret = GOLDEN.replace(b'"n":3', b'"n":"secret-42"')
    with pytest.raises(DecodeError) as failed:
        registry.read(stored(secret))
    assert "secret-42" not in str(failed.value)
    assert "secret-42" not in repr(stored(secret))


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": "t", "type": ""},
        {"topic": "t", "type": "x", "key": "nothing"},
        {"topic": "t\n", "type": "x"},
        {"topic": "t" * 201, "type": "x"},
        {"topic": "t", "type": "x", "order": "strict"},
        {"topic": "t", "type": "x", "key": "n", "order": "loose"},
    ],
)
def test_wrong_definitions_fail_at_import(arguments):
    """Wrong use fails where the class is written."""
    with pytest.raises(EventDefinitionError):
        type("Wrong", (Event,), {"__annotations__": {"n": int}}, **arguments)


def test_one_type_has_one_class():
    """Two classes of one type would make the meaning of a message depend on the order of imports."""
    registry = EventRegistry()
    registry.register(Placed)
    registry.register(Placed)
    with pytest.raises(EventDefinitionError):
        registry.register(PlacedV3)
