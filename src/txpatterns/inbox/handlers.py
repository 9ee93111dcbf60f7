"""Which function handles which event, checked when it is registered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints, overload

from txpatterns.errors import HandlerDefinitionError
from txpatterns.inbox.decisions import FailureRules
from txpatterns.inbox.transaction import SyncTransaction, Transaction
from txpatterns.messages import Event, describe

E = TypeVar("E", bound=Event)

AnyHandler = Callable[..., Any]

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, the event it takes, and the consumer name that its inbox rows carry."""

    consumer: str
    event: type[Event]
    call: AnyHandler
    is_async: bool
    rules: FailureRules


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


class Handlers:
    """The handlers of one group, by wire type."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._by_type: dict[str, list[Handler]] = {}

    def add(
        self, event: type[Event], function: AnyHandler, *, name: str | None = None, rules: FailureRules | None = None
    ) -> Handler:
        """Register a function for an event, under ``name`` or its own name.

        The name is part of the identity of what was handled: a renamed handler handles the broker's messages anew.

        Raises:
            HandlerDefinitionError: the function does not fit the event, or its name is taken by another.
        """
        spec = describe(event)
        is_async = check_signature(event, function)
        consumer = f"{self.group}.{name or name_of(function)}"
        if len(consumer) > _LONGEST_NAME or not consumer.isprintable():
            raise HandlerDefinitionError(f"{consumer!r} is no plain name of at most {_LONGEST_NAME} characters.")
        for known in self:
            if known.consumer == consumer and (known.call is not function or known.event is event):
                raise HandlerDefinitionError(
                    f"There is a handler named {consumer!r} already.", fix="Give one of them another name=."
                )
        handler = Handler(consumer, event, function, is_async, rules or FailureRules())
        self._by_type.setdefault(spec.type, []).append(handler)
        return handler

    def of(self, type_: str) -> list[Handler]:
        """Give the handlers of a wire type, in the order of their registration."""
        return self._by_type.get(type_, [])

    def find(self, consumer: str, type_: str) -> Handler | None:
        """Give the handler that a waiting message belongs to."""
        return next((handler for handler in self.of(type_) if handler.consumer == consumer), None)

    @property
    def topics(self) -> list[str]:
        """The topics that these handlers need, sorted."""
        return sorted({describe(handler.event).topic for handler in self})

    @property
    def consumers(self) -> list[str]:
        """The names of these handlers, sorted."""
        return sorted({handler.consumer for handler in self})

    def __iter__(self) -> Iterator[Handler]:
        for handlers in self._by_type.values():
            yield from handlers


def name_of(function: AnyHandler) -> str:
    """Give the name that a handler has without ``name=``."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def check_signature(event: type[Event], function: AnyHandler) -> bool:
    """Check that a function can be called with this event and a transaction; says whether it is a coroutine function.

    Raises:
        HandlerDefinitionError: it cannot, or its annotations say that it is meant for something else.
    """
    name = name_of(function)
    is_async = is_coroutine_function(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerDefinitionError(f"{name} is a generator: it would never run.")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise HandlerDefinitionError(f"{name} cannot be called with (event, tx): {error}.") from error
    annotations = _annotations(function)
    wanted = Transaction if is_async else SyncTransaction
    first, second = (*annotations, None, None)[:2]
    if isinstance(first, type) and not issubclass(event, first):
        raise HandlerDefinitionError(f"{name} takes {first.__name__}, but is registered for {event.__name__}.")
    if isinstance(second, type) and not issubclass(wanted, second):
        kind = "async def" if is_async else "def"
        raise HandlerDefinitionError(f"{name} is {kind}, so it takes {wanted.__name__}, not {second.__name__}.")
    return is_async


def is_coroutine_function(function: AnyHandler) -> bool:
    """Whether calling it gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _annotations(function: AnyHandler) -> list[object]:
    """Give the types of the positional parameters; none where they cannot be known at run time."""
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        hints = get_type_hints(target)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, AttributeError):  # imported for type checkers only, or a built-in
        return []
    positional = (p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return [hints.get(parameter.name) for parameter in positional]
