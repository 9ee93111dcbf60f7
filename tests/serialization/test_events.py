"""What the arguments of an event class mean, and which are refused where the class is written."""

from functools import cached_property

import pytest
from pydantic import computed_field

from txpatterns.errors import EventDefinitionError
from txpatterns.messages import Event, EventType, describe


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
