"""What can be seen of a function before it is called: whether it fits an event, and where it is to run."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterator
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from txpatterns.errors import HandlerDefinitionError
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.inbox.transaction import SyncTransaction, Transaction
from txpatterns.messages import Event

AnyHandler = Callable[..., Any]


def name_of(function: AnyHandler) -> str:
    """Give the name that a handler has without ``name=``."""
    plain = _without_partial(function)
    return str(getattr(plain, "__name__", type(plain).__name__))


def written_at(function: AnyHandler) -> str:
    """Say where a function is written: file, line and name; only the name where nobody knows."""
    plain = inspect.unwrap(_without_partial(function))
    code = getattr(plain, "__code__", None) or getattr(getattr(plain, "__call__", None), "__code__", None)  # noqa: B004
    if code is None:
        return name_of(function)
    return f"{code.co_filename}:{code.co_firstlineno} in {code.co_qualname}"


def is_same(one: AnyHandler, other: AnyHandler) -> bool:
    """Whether two are the same function; a method of an object is another one each time that it is looked up."""
    if inspect.ismethod(one) and inspect.ismethod(other):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


def check_signature(event: type[Event], function: AnyHandler) -> bool:
    """Check that a function can be called with this event and a transaction; says whether it runs in the event loop.

    What it says of itself counts: coroutine functions run there, and so do other functions that wrap one, or say that
    they return something to await. What an annotation does not tell at run time is taken for right.

    Raises:
        HandlerDefinitionError: it cannot, or its annotations say that it is meant for something else.
    """
    name = name_of(function)
    if not callable(function):
        raise HandlerDefinitionError(f"{name} cannot be called.")
    target = _target(function)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise HandlerDefinitionError(f"{name} is a generator: it would never run.")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise HandlerDefinitionError(f"{name} cannot be called with (event, tx): {error}.") from error
    except ValueError:  # written in another language, which does not tell
        return False
    first, second, returned = _annotations(function)
    if not _takes(first, event):
        raise HandlerDefinitionError(
            f"{name} takes {_shown(first)}, but is registered for {event.__name__}.",
            fix=f"A handler takes (event, tx): annotate event with {event.__name__}, a base of it, or a union with it.",
        )
    in_loop = _runs_in_loop(function, second, returned)
    wanted = Transaction if in_loop else SyncTransaction
    if not _takes(second, wanted):
        kind = "async def" if in_loop else "def"
        raise HandlerDefinitionError(
            f"{name} is {kind}, so it takes {wanted.__name__}, not {_shown(second)}.",
            fix="async def takes Transaction, def takes SyncTransaction; a def that returns a coroutine says "
            "-> Awaitable[None] and takes Transaction.",
        )
    return in_loop


def _runs_in_loop(function: AnyHandler, second: object, returned: object) -> bool:
    if is_coroutine_function(function):
        return True
    promises = any(kind is not Any and issubclass(kind, Awaitable) for kind in _kinds(returned))
    wraps = is_coroutine_function(inspect.unwrap(_without_partial(function)))
    # One that makes a coroutine function into a plain one says so by the transaction that it takes.
    return (promises or wraps) and _takes(second, Transaction)


def _without_partial(function: AnyHandler) -> AnyHandler:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _target(function: AnyHandler) -> AnyHandler:
    """Give what is really called: the function in a partial one, the method of an object that can be called."""
    plain = _without_partial(function)
    if inspect.isroutine(plain) or inspect.isclass(plain):
        return plain
    return getattr(plain, "__call__", plain)  # noqa: B004


def _annotations(function: AnyHandler) -> tuple[object, object, object]:
    """Give the types of the first two parameters and of the result; ``object`` where run time does not tell them."""
    try:
        hints = get_type_hints(_target(function))
        parameters = inspect.signature(function).parameters.values()
    except Exception:  # noqa: BLE001 - imported for type checkers only, a built-in, or a name that fails when evaluated
        return object, object, object
    positional = (p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    found = [hints.get(parameter.name, object) for parameter in positional]
    first, second = [*found, object, object][:2]
    return first, second, hints.get("return", object)


def _takes(annotation: object, given: type) -> bool:
    """Whether a parameter so annotated takes an object of a class, as far as that can be told at run time.

    Any and protocols do not: a handler is checked when it is registered, and they leave nothing to check.
    """
    return any(_fits(kind, given) for kind in _kinds(annotation))


def _fits(kind: type, given: type) -> bool:
    return kind is not Any and not getattr(kind, "_is_protocol", False) and issubclass(given, kind)


def _kinds(annotation: object) -> Iterator[type]:
    """Give the classes of an annotation, and ``object`` for what only type checkers understand."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    elif origin is typing.Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif isinstance(annotation, TypeVar):
        bounds = annotation.__constraints__ or (annotation.__bound__,)
        for bound in bounds:
            yield from _kinds(object if bound is None else bound)
    elif hasattr(annotation, "__supertype__"):  # a NewType
        yield from _kinds(annotation.__supertype__)
    elif hasattr(annotation, "__value__"):  # a type alias
        yield from _kinds(annotation.__value__)
    else:
        found = origin or annotation
        yield found if isinstance(found, type) or found is Any else object


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
