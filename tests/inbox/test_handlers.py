"""What is refused when a handler is registered, or a consumer starts."""

import functools
from datetime import timedelta
from typing import Annotated, Any, NewType, Protocol, TypeVar

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from inbox.support import Echoed, Noted
from txpatterns.errors import HandlerDefinitionError, MissingExtra, UnsafeSettings
from txpatterns.inbox import ConsumerSettings, Handlers, SyncTransaction, Transaction
from txpatterns.inbox.settings import check_window, concurrency_for
from txpatterns.messages import Event
from txpatterns.retries import FailurePolicies, FailurePolicy, RetryLadder


async def good(event: Noted, tx: Transaction) -> None: ...


def plain(event: Noted, tx: SyncTransaction) -> None: ...


async def general(event: Event, tx: Transaction) -> None: ...


async def bare(event, tx): ...


async def extra(event: Noted, tx: Transaction, *, limit: int = 3) -> None: ...


class Text(Protocol):
    book: str


class Emitter(Protocol):
    def emit(self, event: Event) -> str: ...


Renamed = NewType("Renamed", Noted)
Any_ = TypeVar("Any_")
Bound = TypeVar("Bound", bound=Event)
Other = TypeVar("Other", bound=Echoed)


async def of_two(event: Noted | Echoed, tx: Transaction) -> None: ...


async def optional(event: Noted | None, tx: Annotated[Transaction, "injected"]) -> None: ...


async def renamed(event: Renamed, tx: Transaction) -> None: ...


async def of_a_bound(event: Bound, tx: Transaction) -> None: ...


async def of_no_bound(event: Any_, tx: Annotated[Transaction, "mine"]) -> None: ...


class Packer:
    async def __call__(self, event: Noted, tx: Transaction) -> None: ...


@pytest.mark.parametrize(
    ("function", "is_async", "name"),
    [
        (good, True, "good"),
        (plain, False, "plain"),
        (general, True, "general"),
        (bare, True, "bare"),
        (functools.partial(extra, limit=4), True, "extra"),
        (Packer(), True, "Packer"),
        (of_two, True, "of_two"),
        (optional, True, "optional"),
        (renamed, True, "renamed"),
        (of_a_bound, True, "of_a_bound"),
        (of_no_bound, True, "of_no_bound"),
    ],
)
def test_functions_that_fit_are_registered_under_their_name(function, is_async, name):
    """UX: functions, partial functions and callable objects, annotated or not."""
    handler = Handlers("app").add(Noted, function)
    assert (handler.is_async, handler.consumer) == (is_async, f"app.{name}")


class Both:
    async def handle(self, event: Noted | Echoed, tx: Transaction) -> None: ...


async def starred(*args: object) -> None: ...


async def unknown(event: "NotImported", tx: "NeitherImported") -> None: ...  # noqa: F821


@pytest.mark.parametrize("function", [starred, unknown, Both().handle])
def test_what_an_annotation_does_not_tell_at_run_time_is_taken_for_right(function):
    """UX: no error of Python's own at import, and none for a handler that fits."""
    assert Handlers("app").add(Noted, function).is_async


def test_a_method_handles_two_events():
    """UX: it is another object each time that it is looked up, and the same method."""
    handlers, both = Handlers("app"), Both()
    handlers.add(Noted, both.handle)
    handlers.add(Echoed, both.handle)
    assert handlers.consumers == ["app.handle"]
    with pytest.raises(HandlerDefinitionError, match="already"):
        handlers.add(Noted, Both().handle)
    with pytest.raises(HandlerDefinitionError, match="already"):
        handlers.add(Noted, both.handle)


@pytest.mark.parametrize("event", [Noted | Echoed, int, "Noted", Noted(book="a", number=1), None])
def test_what_is_no_event_is_refused(event):
    """UX: with what to write instead."""
    with pytest.raises(HandlerDefinitionError, match="one event class"):
        Handlers("app").add(event, bare)


async def of_no_event(event: int | str, tx: Transaction) -> None: ...


def gives_a_coroutine(event: Noted, tx: Transaction):
    return good(event, tx)


async def of_another_event(event: Echoed, tx: Transaction) -> None: ...


async def of_the_other_kind(event: Noted, tx: SyncTransaction) -> None: ...


def of_the_other_kind_too(event: Noted, tx: Transaction) -> None: ...


async def one_parameter(event: Noted) -> None: ...


async def three_parameters(event: Noted, tx: Transaction, more: int) -> None: ...


async def of_anything(event: Any, tx: Transaction) -> None: ...


async def of_a_protocol(event: Text, tx: Transaction) -> None: ...


async def with_a_protocol(event: Noted, tx: Emitter) -> None: ...


async def of_others(event: Echoed | int, tx: Transaction) -> None: ...


async def of_a_list(event: list[Noted], tx: Transaction) -> None: ...


async def of_another_bound(event: Other, tx: Transaction) -> None: ...


async def generator(event: Noted, tx: Transaction):
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (of_another_event, "takes Echoed, but is registered for Noted"),
        (of_the_other_kind, "async def, so it takes Transaction"),
        (of_the_other_kind_too, "is def, so it takes SyncTransaction"),
        (one_parameter, "cannot be called with"),
        (three_parameters, "cannot be called with"),
        (generator, "is a generator"),
        (functools.partial(generator), "is a generator"),
        (of_no_event, r"takes int \| str, but is registered for Noted"),
        (gives_a_coroutine, "is def, so it takes SyncTransaction"),
        ("good", "cannot be called"),
        (of_anything, "takes Any, but is registered for Noted. Fix: .*annotate event with Noted"),
        (of_a_protocol, "takes Text, but is registered for Noted. Fix: .*annotate event with Noted"),
        (with_a_protocol, "so it takes Transaction, not Emitter"),
        (of_others, r"takes .*Echoed \| int, but is registered"),
        (of_a_list, "but is registered"),
        (of_another_bound, "takes ~Other, but is registered"),
    ],
)
def test_functions_that_do_not_fit_are_refused(function, words):
    """UX: told at import, with what to write instead, and not by the first message."""
    with pytest.raises(HandlerDefinitionError, match=words):
        Handlers("app").add(Noted, function)


def test_two_handlers_may_not_share_a_name():
    """P2: the name is the consumer's identity; two under one name would take each other's messages for handled."""
    handlers = Handlers("app")
    handlers.add(Noted, good)
    with pytest.raises(HandlerDefinitionError, match="already"):
        handlers.add(Noted, plain, name="good")
    with pytest.raises(HandlerDefinitionError, match="already"):
        handlers.add(Noted, good)
    handlers.add(Echoed, bare, name="bare")
    handlers.add(Noted, bare)
    assert handlers.topics == ["echoes", "notes"]
    assert handlers.consumers == ["app.bare", "app.good"]


@pytest.mark.parametrize(
    ("retention", "horizon", "accepted"),
    [
        (timedelta(days=14), timedelta(days=7), True),
        (timedelta(days=7), timedelta(days=7), False),
        (timedelta(days=7, hours=3), timedelta(days=7), True),
        (timedelta(hours=1), timedelta(), True),
        (timedelta(minutes=40), timedelta(), False),
    ],
)
def test_a_memory_shorter_than_redelivery_is_refused(retention, horizon, accepted):
    """P2, H48: the inbox remembers for at least the broker's horizon and the whole ladder."""
    settings = ConsumerSettings(retention=retention, redelivery_horizon=horizon)
    if accepted:
        check_window(settings, [])
        return
    with pytest.raises(UnsafeSettings, match="can come again within"):
        check_window(settings, [])


def test_the_longest_ladder_counts(sqlite_world):
    """P2, H48: a ladder of one topic or one exception may be the longest."""
    year = RetryLadder((timedelta(days=365),))
    settings = ConsumerSettings(policies=FailurePolicies(topics={"notes": FailurePolicy(ladder=year)}))
    with pytest.raises(UnsafeSettings):
        check_window(settings, [])
    consumer = sqlite_world.consumer()
    consumer.on(Noted, retries={OSError: year})(good)
    with pytest.raises(UnsafeSettings):
        consumer.check()


async def test_there_are_no_more_handlers_at_a_time_than_connections(tmp_path):
    """H145: more would wait for each other; SQLite has one writer; nobody is given the overflow without asking."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", pool_size=3, max_overflow=1)
    pools = [engine.sync_engine]
    assert concurrency_for(ConsumerSettings(), is_sqlite=False, engines=pools) == 3
    assert concurrency_for(ConsumerSettings(concurrency=4), is_sqlite=False, engines=pools) == 4
    assert concurrency_for(ConsumerSettings(concurrency=2), is_sqlite=False, engines=pools) == 2
    assert concurrency_for(ConsumerSettings(concurrency=9), is_sqlite=True, engines=pools) == 1
    with pytest.raises(UnsafeSettings, match="has 4 connections"):
        concurrency_for(ConsumerSettings(concurrency=5), is_sqlite=False, engines=pools)
    await engine.dispose()


async def test_a_plain_handler_without_its_driver_is_refused_at_the_start(sqlite_world, monkeypatch):
    """H144: not by the first message."""

    def missing(_self):
        raise MissingExtra("psycopg is not installed.")

    consumer = sqlite_world.consumer()
    consumer.on(Noted)(plain)
    monkeypatch.setattr(type(sqlite_world.database), "sync_engine", property(missing))
    with pytest.raises(MissingExtra):
        await consumer.run()
