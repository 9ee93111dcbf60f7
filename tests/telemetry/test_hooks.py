"""Listeners can do no harm, and the story of a message is kept without any telemetry."""

from contextlib import contextmanager

import pytest

from txpatterns import App
from txpatterns.correlation import caused_by, correlated, correlation_id_of, lineage_of
from txpatterns.errors import ConfigurationError
from txpatterns.hooks import HookList, Hooks, Moment, on
from txpatterns.inbox.moments import Handled, HandlerFailed, Handling
from txpatterns.runtime.moments import DepthsSeen


class Faulty(Hooks):
    """Raises at every moment."""

    def headers(self):
        raise RuntimeError("headers")

    @on(Handled)
    def handled(self, moment):
        raise RuntimeError("handled")

    @on(Handling)
    def handling(self, moment):
        raise RuntimeError("handling")


class FaultyAtTheEnd(Hooks):
    @on(Handling)
    @contextmanager
    def handling(self, moment):
        try:
            yield
        finally:
            raise RuntimeError("end")


class Swallowing(Hooks):
    @on(Handling)
    @contextmanager
    def handling(self, moment):
        try:
            yield
        except ValueError:
            self.seen = True


class Noting(Hooks):
    def __init__(self):
        self.notes = []

    def headers(self):
        return {"noted": "yes"}

    @on(Handled)
    def handled(self, moment):
        self.notes.append(moment.consumer)

    @on(Handling)
    @contextmanager
    def handling(self, moment):
        self.notes.append("begin")
        yield
        self.notes.append("end")


def test_a_listener_that_raises_is_harmless(make, caplog):
    """P2: a fault of telemetry never reaches the runtime; the others are still told, and the log is not flooded."""
    noting = Noting()
    hooks = HookList([Faulty(), FaultyAtTheEnd(), noting])
    assert hooks.headers() == {"noted": "yes"}
    for _ in range(100):
        with hooks.within(Handling(make(), "packing", 1)):
            hooks.tell(Handled(make(), "packing"))
    assert noting.notes == ["begin", "packing", "end"] * 100
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "listener Faulty failed at headers",
        "listener Faulty failed at Handling",
        "listener Faulty failed at Handled",
        "listener FaultyAtTheEnd failed at Handling",
    ]


def test_a_listener_cannot_swallow_the_error_of_a_handler(make):
    """Invariant: P2. An error that a listener swallowed would let the failed handler's transaction commit."""
    swallowing = Swallowing()
    with pytest.raises(ValueError, match="no stock"), HookList([swallowing]).within(Handling(make(), "packing", 1)):
        raise ValueError("no stock")
    assert swallowing.seen


def test_what_a_handler_adds_belongs_to_the_story_of_its_message(make):
    """Correlation and causation ids go on by themselves, with no listener at all."""
    hooks = HookList()
    first = make()
    assert hooks.headers() == {}
    with caused_by(first):
        second = make(headers=hooks.headers())
    with caused_by(second):
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
    with caused_by(placed):
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
    with caused_by(make(id=hostile or "x", headers={"correlation-id": hostile})):
        assert all(value.isprintable() and len(value) <= 128 for value in hooks.headers().values())


def test_one_listener_several_or_none_become_one_list(make):
    """A part that is used alone guards its listener as an App would."""
    faulty, noting = Faulty(), Noting()
    assert HookList.of(None).headers() == {}
    assert HookList.of(faulty).headers() == {}
    assert HookList.of([faulty, noting]).headers() == {"noted": "yes"}
    already = HookList([noting])
    assert HookList.of(already) is already


class Everything(Hooks):
    def __init__(self):
        self.all = []

    @on(Moment)
    def keep(self, moment):
        match moment:
            case HandlerFailed(message=message, error=error):
                self.all.append((message.topic, str(error)))
            case _:
                self.all.append(type(moment))


def test_a_listener_hears_what_it_has_marked_and_no_more(make):
    """One kind, or all that derive from one; a subclass's method stays marked as it was."""

    class Louder(Noting):
        def handled(self, moment):
            self.notes.append(f"{moment.consumer}!")

    everything, louder = Everything(), Louder()
    hooks = HookList([everything, louder])
    hooks.tell(Handled(make(), "packing"))
    hooks.tell(HandlerFailed(make(), "packing", ValueError("no stock"), 1))
    assert everything.all == [Handled, ("orders", "no stock")]
    assert louder.notes == ["packing!"]
    assert [hooks.wants(kind) for kind in (Handled, DepthsSeen, Handling)] == [True, True, True]
    assert [HookList([louder]).wants(kind) for kind in (Handled, DepthsSeen, Handling)] == [True, False, True]
    assert not HookList().wants(Handled)


def test_an_interrupt_passes_through_every_listener(make):
    """P7: Ctrl+C in a listener stops the process, whoever listens."""

    class Interrupted(Hooks):
        @on(Handled)
        def handled(self, moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HookList([Interrupted()]).tell(Handled(make(), "packing"))


class Unmarked(Hooks):
    """As a listener was written for other versions: no method is marked."""

    def dead(self, message, consumer, error):
        raise AssertionError


@pytest.mark.parametrize(
    ("listener", "what"),
    [(Unmarked(), "none of its methods is marked"), (Unmarked, "no listener"), (print, "no listener")],
    ids=["unmarked", "class", "function"],
)
def test_a_listener_that_would_never_be_called_is_refused(tmp_path, listener, what):
    """P4, H293: an alarm that nothing can ring is found at the start, not on the night when it should have rung."""
    with pytest.raises(ConfigurationError, match=what):
        App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://", hooks=[listener])


async def awaited(self, moment):
    raise AssertionError


def yielding(self, moment):
    yield


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (Handled, awaited),
        (Handling, yielding),
        ("handled", print),
        (ValueError, print),
        (Handled(None, ""), print),
    ],
    ids=["async", "no context manager", "text", "no moment", "a moment itself"],
)
def test_a_method_that_would_do_nothing_is_refused(kind, method):
    """P4, H293: a coroutine that nobody awaits, or a generator that nobody enters, is silence, too."""
    with pytest.raises(ConfigurationError):
        type("Silent", (Hooks,), {"method": on(kind)(method)})


def test_a_marked_method_stays_a_method():
    """P4, H293: a subclass cannot lose it by accident."""
    with pytest.raises(ConfigurationError, match="cannot be called"):
        type("Silent", (Noting,), {"handled": None})
