"""Which function handles which event, checked when it is registered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, TypeVar, overload

from txpatterns.checks import INSTANT, check_at_least
from txpatterns.errors import HandlerDefinitionError
from txpatterns.inbox.signatures import AnyHandler, check_signature, is_same, name_of, written_at
from txpatterns.inbox.transaction import BatchTransaction, SyncBatchTransaction, SyncTransaction, Transaction
from txpatterns.messages import Event, EventType, describe
from txpatterns.retries import FailureRules
from txpatterns.runtime.forks import forget_after_fork

E = TypeVar("E", bound=Event)

_LONGEST_NAME = 200
_LARGEST_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """How a handler's messages are treated, where it is said for the handler alone."""

    rules: FailureRules = field(default_factory=FailureRules)
    timeout: timedelta | None = None
    """How long it may take; None: as long as the consumer's settings say."""
    batch: int | None = None
    """How many events it is given at a time, at most; None: one, and not in a list."""

    def __post_init__(self) -> None:
        check_at_least(INSTANT, self, "timeout")
        if self.batch is not None and (type(self.batch) is not int or not 2 <= self.batch <= _LARGEST_BATCH):
            raise HandlerDefinitionError(
                f"batch is {self.batch!r}, and must be a whole number from 2 to {_LARGEST_BATCH}.",
                fix="Say how many events the handler is given at most; without batch= it is given one at a time.",
            )


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, the event it takes, and the consumer name that its inbox rows carry."""

    consumer: str
    event: type[Event]
    call: AnyHandler
    is_async: bool
    """Whether it runs in the event loop; otherwise in a thread."""
    options: Options
    place: str
    """Where it is written: file, line and name."""

    @property
    def rules(self) -> FailureRules:
        """How its errors are treated."""
        return self.options.rules

    @property
    def batch(self) -> int | None:
        """How many events it is given at a time, at most; None: one, and not in a list."""
        return self.options.batch


def check_event(event: object) -> EventType:
    """Give the description of what a handler is registered for.

    Raises:
        HandlerDefinitionError: it is no event class, a union of several for example.
        EventDefinitionError: the class has no topic and type.
    """
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise HandlerDefinitionError(
            f"on() takes one event class, not {event!r}.",
            fix="Register the handler once for each event: @app.on(A), and below it @app.on(B).",
        )
    return describe(event)


class On(Generic[E]):
    """The decorator that ``on(SomeEvent)`` gives: it takes only functions that handle that event.

    The types say so to mypy, and registration checks it again at run time.
    """

    def __init__(self, keep: Callable[[AnyHandler], None]) -> None:
        self._keep = keep

    @overload
    def __call__(
        self, handler: Callable[[E, Transaction], Awaitable[None]], /
    ) -> Callable[[E, Transaction], Awaitable[None]]: ...
    @overload
    def __call__(self, handler: Callable[[E, SyncTransaction], None], /) -> Callable[[E, SyncTransaction], None]: ...
    def __call__(self, handler: AnyHandler, /) -> AnyHandler:
        self._keep(handler)
        return handler


class OnBatch(Generic[E]):
    """The decorator that ``on(SomeEvent, batch=100)`` gives: it takes only handlers of lists of that event."""

    def __init__(self, keep: Callable[[AnyHandler], None]) -> None:
        self._keep = keep

    @overload
    def __call__(
        self, handler: Callable[[list[E], BatchTransaction], Awaitable[None]], /
    ) -> Callable[[list[E], BatchTransaction], Awaitable[None]]: ...
    @overload
    def __call__(
        self, handler: Callable[[list[E], SyncBatchTransaction], None], /
    ) -> Callable[[list[E], SyncBatchTransaction], None]: ...
    def __call__(self, handler: AnyHandler, /) -> AnyHandler:
        self._keep(handler)
        return handler


class Handlers:
    """The handlers of one group, by wire type: registered once, and read by whatever runs them."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.on_add: list[Callable[[Handler], object]] = []
        """Called, in turn, with each new handler before it is kept; one that raises refuses it."""
        self._by_type: dict[str, list[Handler]] = {}
        self._users: set[object] = set()
        forget_after_fork(self)

    def add(
        self, event: type[Event], function: AnyHandler, *, name: str | None = None, options: Options | None = None
    ) -> Handler:
        """Register a function as a handler for an event, under ``name`` or its own name.

        The name is part of the identity of what was handled: a renamed handler handles the broker's messages anew.

        Raises:
            HandlerDefinitionError: the function does not fit the event, its name is taken by another, or the handlers
                are in use.
        """
        if self._users:
            raise HandlerDefinitionError(
                f"{name or name_of(function)} is registered while {self.group} runs, so it would receive nothing.",
                fix="Register all handlers first: import their modules before the start.",
            )
        handler = self._make(event, function, name, options or Options())
        for told in self.on_add:
            told(handler)
        self._by_type.setdefault(describe(event).type, []).append(handler)
        return handler

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Refuse new handlers for as long as the block lasts: who runs asks for its topics once, at the start."""
        user = object()
        self._users.add(user)
        try:
            yield
        finally:
            self._users.discard(user)

    def after_fork(self) -> None:
        """Forget who runs in the parent process."""
        self._users.clear()

    def _make(self, event: type[Event], function: AnyHandler, name: str | None, options: Options) -> Handler:
        check_event(event)
        is_async = check_signature(event, function, in_batches=options.batch is not None)
        consumer = f"{self.group}.{name or name_of(function)}"
        if len(consumer) > _LONGEST_NAME or not consumer.isprintable():
            raise HandlerDefinitionError(f"{consumer!r} is no plain name of at most {_LONGEST_NAME} characters.")
        for known in self:
            if known.consumer == consumer and (not is_same(known.call, function) or known.event is event):
                raise HandlerDefinitionError(
                    f"There is a handler named {consumer!r} already.", fix="Give one of them another name=."
                )
            if known.consumer == consumer and not _go_together(known.options, options):
                raise HandlerDefinitionError(
                    f"{consumer!r} is registered for several events, but with another batch= or timeout=.",
                    fix="Its events come in the same batches: register it each time with the same batch and timeout.",
                )
        return Handler(consumer, event, function, is_async, options, written_at(function))

    def of(self, type_: str, topic: str | None = None) -> list[Handler]:
        """Give the handlers of a wire type on a topic, in the order of their registration.

        A topic that no event of this type names is read as the only event of the type.
        """
        found = self._by_type.get(type_, [])
        if topic is None or len({handler.event for handler in found}) < 2:
            return found
        return [handler for handler in found if describe(handler.event).topic == topic]

    def find(self, consumer: str, type_: str, topic: str | None = None) -> Handler | None:
        """Give the handler that a waiting message belongs to."""
        return next((handler for handler in self.of(type_, topic) if handler.consumer == consumer), None)

    @property
    def topics(self) -> list[str]:
        """The topics that these handlers need, sorted."""
        return sorted({describe(handler.event).topic for handler in self})

    @property
    def largest_batch(self) -> int:
        """How many messages any of these handlers is given at a time, at most."""
        return max((handler.batch or 1 for handler in self), default=1)

    @property
    def consumers(self) -> list[str]:
        """The names of these handlers, sorted."""
        return sorted({handler.consumer for handler in self})

    def __iter__(self) -> Iterator[Handler]:
        for handlers in self._by_type.values():
            yield from handlers


def _go_together(one: Options, other: Options) -> bool:
    """Whether the events of two registrations of one function can be in the same batch, or come in none."""
    if one.batch is None and other.batch is None:
        return True
    return (one.batch, one.timeout) == (other.batch, other.timeout)
