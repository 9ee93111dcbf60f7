"""Listeners can do no harm, and the story of a message is kept without any telemetry."""

from contextlib import contextmanager

import pytest

from txpatterns.hooks import HookList, Hooks, correlated, correlation_id_of, lineage_of


class Faulty(Hooks):
    """Raises at every moment."""

    def headers(self):
        raise RuntimeError("headers")

    def published(self, messages, age):
        raise RuntimeError("published")

    def handled(self, message, consumer):
        raise RuntimeError("handled")

    def handling(self, message, consumer, attempt):
        raise RuntimeError("handling")


class FaultyAtTheEnd(Hooks):
    @contextmanager
    def handling(self, message, consumer, attempt):
        try:
            yield
        finally:
            raise RuntimeError("end")


class Swallowing(Hooks):
    @contextmanager
    def handling(self, message, consumer, attempt):
        try:
            yield
        except ValueError:
            self.seen = True


class Noting(Hooks):
    def __init__(self):
        self.notes = []

    def headers(self):
        return {"noted": "yes"}

    def handled(self, message, consumer):
        self.notes.append(consumer)

    @contextmanager
    def handling(self, message, consumer, attempt):
        self.notes.append("begin")
        yield
        self.notes.append("end")


def test_a_listener_that_raises_is_harmless(make, caplog):
    """P2: a fault of telemetry never reaches the runtime; the others are still told, and the log is not flooded."""
    noting = Noting()
    hooks = HookList([Faulty(), FaultyAtTheEnd(), noting])
    assert hooks.headers() == {"noted": "yes"}
    for _ in range(100):
        with hooks.handling(make(), "packing", 1):
            hooks.handled(make(), "packing")
    assert noting.notes == ["begin", "packing", "end"] * 100
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "listener Faulty failed at headers",
        "listener Faulty failed at handling",
        "listener Faulty failed at handled",
        "listener FaultyAtTheEnd failed at handling",
    ]


def test_a_listener_cannot_swallow_the_error_of_a_handler(make):
    """Invariant: P2. An error that a listener swallowed would let the failed handler's transaction commit."""
    swallowing = Swallowing()
    with pytest.raises(ValueError, match="no stock"), HookList([swallowing]).handling(make(), "packing", 1):
        raise ValueError("no stock")
    assert swallowing.seen


def test_what_a_handler_adds_belongs_to_the_story_of_its_message(make):
    """Correlation and causation ids go on by themselves, with no listener at all."""
    hooks = HookList()
    first = make()
    assert hooks.headers() == {}
    with hooks.handling(first, "packing", 1):
        second = make(headers=hooks.headers())
    with hooks.handling(second, "shipping", 1):
        third = make(headers=hooks.headers())
    assert hooks.headers() == {}
    assert [correlation_id_of(message) for message in (first, second, third)] == [first.id] * 3
    assert second.headers["causation-id"] == first.id
    assert third.headers["causation-id"] == second.id


def test_a_request_gives_its_own_correlation_id(make):
    """The id that a client sent is found with every message of the story."""
    hooks = HookList()
    with correlated("request-7") as stored:
        placed = make(headers=hooks.headers())
    with hooks.handling(placed, "packing", 1):
        assert hooks.headers() == {"correlation-id": stored, "causation-id": placed.id} == lineage_of(placed)
    assert stored == "request-7"


@pytest.mark.parametrize("hostile", ["a\r\nb: c", "\x1b[31ma\x00", "é", "x" * 5000, ""])
def test_a_strange_correlation_id_fails_nobody(make, hostile):
    """H149, S29: a header that a stranger chose must not make the user's transaction fail, nor split a header."""
    hooks = HookList()
    with correlated(hostile) as stored:
        assert hooks.headers() == {"correlation-id": stored}
    assert stored.isascii()
    assert stored.isprintable()
    assert 1 <= len(stored) <= 128
    with hooks.handling(make(id=hostile or "x", headers={"correlation-id": hostile}), "packing", 1):
        assert all(value.isprintable() and len(value) <= 128 for value in hooks.headers().values())


def test_one_listener_several_or_none_become_one_list(make):
    """A part that is used alone guards its listener as an App would."""
    faulty, noting = Faulty(), Noting()
    assert HookList.of(None).headers() == {}
    assert HookList.of(faulty).headers() == {}
    assert HookList.of([faulty, noting]).headers() == {"noted": "yes"}
    already = HookList([noting])
    assert HookList.of(already) is already
