"""What the arguments of an event class mean, and which are refused where the class is written."""

import uuid
from enum import Enum
from functools import cached_property

import pytest
from pydantic import computed_field

from txpatterns.errors import AddRefused, DecodeError, EventDefinitionError, PayloadInvalid, UnknownType
from txpatterns.messages import EPOCH, TOMBSTONE, Event, EventType, Message, describe
from txpatterns.serialization import EventRegistry, RawCodec


class Order(Event, topic="t", type="a", key="n", version="2.0", order="strict"):
    n: int


def test_a_subclass_keeps_what_it_does_not_say():
    """P3: what an event class says of key and order holds for the classes below it, each argument by itself."""

    class Same(Order): ...

    class Newer(Order, version="3.0"): ...

    class Other(Order, type="b"): ...

    class Loose(Order, order="position", key="m"):
        m: int

    assert describe(Same) == describe(Order)
    assert describe(Newer) == EventType("t", "a", "n", "3.0", "strict")
    assert describe(Other) == EventType("t", "b", "n", "2.0", "strict")
    assert describe(Loose) == EventType("t", "a", "m", "2.0", "position")
    assert Other(n=7).key_of() == "7"


def test_a_key_is_a_field_or_a_property():
    """P3: what gives the key is computed from the event, in each of the ways that pydantic and Python have."""

    class Part(Event):
        tenant: str

        @property
        def upper(self) -> str:
            return self.tenant.upper()

        @computed_field
        @property
        def computed(self) -> str:
            return f"{self.tenant}-1"

        @cached_property
        def cached(self) -> str:
            return f"{self.tenant}-2"

    def key_by(name):
        return type(Part)("Made", (Part,), {"__module__": __name__}, topic="t", type="a", key=name)(tenant="a").key_of()

    assert [key_by(name) for name in ("tenant", "upper", "computed", "cached")] == ["a", "A", "a-1", "a-2"]


class _Nameless:
    """Has no text of its own, so Python gives its address."""


@pytest.mark.parametrize("key", [frozenset("ab"), {"a"}, _Nameless()], ids=["frozenset", "set", "object"])
def test_a_key_with_another_text_in_each_process_is_refused(key):
    """P3: messages that belong together would be in lanes of their own."""

    class Part(Event, topic="t", type="keyed.oddly", key="odd"):
        n: int

        @property
        def odd(self) -> object:
            return key

    with pytest.raises(AddRefused, match="differs from process to process"):
        Part(n=1).key_of()


@pytest.mark.parametrize("key", ["copy", "event_type", "model_fields_set", "key_of", "", 5])
def test_what_every_event_has_is_no_key(key):
    """P3: a method's repr as the key would make each message a lane of its own."""
    with pytest.raises(EventDefinitionError, match=r"Wrong: key=.*Fix: .*field"):

        class Wrong(Event, topic="t", type="a", key=key):
            n: int


@pytest.mark.parametrize("arguments", [{"version": "2.0"}, {"order": "strict"}, {"key": "n"}, {"version": ""}])
def test_arguments_without_a_type_are_refused(arguments):
    """P3: nobody would ever read them."""
    with pytest.raises(EventDefinitionError, match="needs both topic= and type="):

        class Wrong(Event, **arguments):
            n: int


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"version": 2}, 'version=2 is not text.*version="2"'),
        ({"type": 2}, "type=2 is not text"),
        ({"topic": b"t"}, "topic=b't' is not text"),
        ({"version": ""}, "version ''"),
        ({"order": 1}, "order=1 is neither"),
    ],
)
def test_what_is_no_text_is_the_librarys_own_error(arguments, said):
    """The error names the class, the argument and what to write instead."""
    with pytest.raises(EventDefinitionError, match=f"Wrong: {said}"):

        class Wrong(Event, **{"topic": "t", "type": "a"} | arguments): ...


def test_without_a_value_there_is_no_key():
    """P3: events whose key field is None are no lane of their own, in which one would wait for the other."""

    class Assigned(Event, topic="t", type="task.assigned", key="person"):
        person: str | None

    assert (Assigned(person="ann").key_of(), Assigned(person=None).key_of()) == ("ann", None)


def test_a_base_says_the_topic_and_the_key_once():
    """P3: a class with a topic and no type is a base; those below it say their type, and it cannot be sent itself."""

    class OrderEvent(Event, topic="orders", key="order_id", order="strict"):
        order_id: str

    class Placed(OrderEvent, type="order.placed"): ...

    class Paid(OrderEvent, type="order.paid", version="2.0"): ...

    assert describe(Placed) == EventType("orders", "order.placed", "order_id", "1.0", "strict")
    assert describe(Paid) == EventType("orders", "order.paid", "order_id", "2.0", "strict")
    with pytest.raises(EventDefinitionError, match="OrderEvent has no type"):
        describe(OrderEvent)
    with pytest.raises(EventDefinitionError, match="key='person_id' is none of its fields"):

        class Wrong(OrderEvent, type="order.wrong", key="person_id"): ...


def test_a_base_may_leave_the_key_to_those_below():
    """P3: that a field is missing is found where a type is given."""

    class Base(Event, topic="orders", key="order_id"): ...

    class Placed(Base, type="order.placed"):
        order_id: int

    assert Placed(order_id=7).key_of() == "7"
    with pytest.raises(EventDefinitionError, match="Wrong: key='order_id'"):

        class Wrong(Base, type="order.wrong"): ...


@pytest.mark.parametrize("given", [Event | Order, "Order", None])
def test_what_is_no_event_class_is_the_librarys_own_error(given):
    """A union, a name or nothing where a class belongs."""
    with pytest.raises(EventDefinitionError):
        describe(given)


def test_one_type_on_two_topics_is_a_class_for_each():
    """P3: regional topics, or a topic that moves: the topic says which of the classes reads a message."""

    class Eu(Event, topic="eu.orders", type="order.placed"):
        n: int

    class Us(Eu, topic="us.orders"):
        state: str

    registry = EventRegistry(RawCodec())
    for event in (Eu, Us, Eu):
        registry.register(event)
    message = Message("1", "us.orders", "order.placed", b'{"n": 1, "state": "NY"}')
    assert registry.read(message) == Us(n=1, state="NY")
    assert registry.read(message._replace(topic="eu.orders")) == Eu(n=1)
    assert registry.topics_of("order.placed") == ["eu.orders", "us.orders"]
    with pytest.raises(UnknownType, match=r"'order\.placed' on 'asia'.*known on eu\.orders, us\.orders"):
        registry.read(message._replace(topic="asia"))

    class Again(Event, topic="us.orders", type="order.placed"): ...

    with pytest.raises(EventDefinitionError, match=r"On us\.orders, 'order\.placed' is the type of both Us and Again"):
        registry.register(Again)


def test_the_only_class_of_a_type_reads_it_on_every_topic():
    """P3: what a mirror has renamed is still read."""
    registry = EventRegistry(RawCodec())
    registry.register(Order)
    assert registry.read(Message("1", "mirror.t", "a", b'{"n": 1}')) == Order(n=1)


class Forgotten(Event, topic="customers", type="customer.forgotten", key="id", tombstone=True):
    id: uuid.UUID


def test_a_tombstone_is_a_key_without_a_value():
    """P1: its event is made of its key, whatever codec and type its topic's other messages have."""
    event, registry = Forgotten(id=uuid.UUID(int=7)), EventRegistry()
    made = registry.encode(event, "1", EPOCH)
    assert (made.payload, made.content_type, dict(made.headers)) == (b"", TOMBSTONE, {})
    bare = Message("1", "customers", "", b"", event.key_of(), {}, TOMBSTONE)
    assert registry.named(bare).type == "customer.forgotten"
    assert registry.read(bare) == event
    with pytest.raises(DecodeError, match="does not fit Forgotten"):
        registry.read(bare._replace(key="no uuid"))
    assert not bare._replace(key=None).is_tombstone
    assert not bare._replace(payload=b"x").is_tombstone


def test_a_tombstone_is_refused_that_could_not_come_back():
    """P1, H210: one without a key, and one whose key is not read from text."""

    class Colour(Enum):
        RED = 1

    class Faded(Event, topic="colours", type="colour.faded", key="colour", tombstone=True):
        colour: Colour | None = None

    for event in (Faded(), Faded(colour=Colour.RED)):
        with pytest.raises(PayloadInvalid):
            EventRegistry().encode(event, "1", EPOCH)


@pytest.mark.parametrize("key", [None, "n", "both"])
def test_a_tombstone_has_its_key_and_nothing_else(key):
    """P1: another field would be lost without a word."""
    with pytest.raises(EventDefinitionError, match=r"Wrong: .*its only field"):

        class Wrong(Event, topic="t", type="a", key=key, tombstone=True):
            n: int
            m: int = 0

            @property
            def both(self) -> str:
                return f"{self.n}-{self.m}"


def test_a_topic_has_one_tombstone():
    """P1: on the wire there is nothing that could tell two of them apart."""
    registry = EventRegistry()
    registry.register(Forgotten)

    class Other(Event, topic="customers", type="customer.gone", key="id", tombstone=True):
        id: str

    with pytest.raises(EventDefinitionError, match="On customers, a tombstone is the sign of both Forgotten and Other"):
        registry.register(Other)
