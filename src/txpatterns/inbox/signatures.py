"""What can be seen of a function before it is called: whether it fits an event, and where it is to run."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from txpatterns.errors import HandlerDefinitionError
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.inbox.transaction import BatchTransaction, SyncBatchTransaction, SyncTransaction, Transaction
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


def check_signature(event: type[Event], function: AnyHandler, *, in_batches: bool = False) -> bool:
    """Check that a function can be called with this event and a transaction; says whether it runs in the event loop.

    ``in_batches``: that it can be called with a list of such events, and the transaction of a batch.
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
        given = "(events, tx)" if in_batches else "(event, tx)"
        raise HandlerDefinitionError(f"{name} cannot be called with {given}: {error}.") from error
    except ValueError:  # written in another language, which does not tell
        return False
    first, second, returned = _annotations(function)
    _check_first(name, event, first, in_batches=in_batches)
    in_the_loop, in_a_thread = _BATCHES if in_batches else _SINGLE
    in_loop = _runs_in_loop(function, second, returned, in_the_loop)
    wanted = in_the_loop if in_loop else in_a_thread
    if not _takes(second, wanted):
        kind, what = "async def" if in_loop else "def", " with batch=" if in_batches else ""
        raise HandlerDefinitionError(
            f"{name} is {kind}{what}, so it takes {wanted.__name__}, not {_shown(second)}.",
            fix=f"async def takes {in_the_loop.__name__}, def takes {in_a_thread.__name__}; a def that returns a "
            f"coroutine says -> Awaitable[None] and takes {in_the_loop.__name__}.",
        )
    return in_loop


_SINGLE: tuple[type, type] = (Transaction, SyncTransaction)
_BATCHES: tuple[type, type] = (BatchTransaction, SyncBatchTransaction)


def _check_first(name: str, event: type[Event], first: object, *, in_batches: bool) -> None:
    takes_list = any(map(partial(_holds, event=event), leaves(first)))
    if in_batches and not takes_list:
        raise HandlerDefinitionError(
            f"{name} takes {_shown(first)}, but with batch= it is called with a list of {event.__name__}.",
            fix=f"A handler of batches takes (events, tx): annotate events with list[{event.__name__}].",
        )
    if not in_batches and not _takes(first, event):
        fix = f"A handler takes (event, tx): annotate event with {event.__name__}, a base of it, or a union with it."
        if takes_list:
            fix = f"To take a list of events, say how many at most: on({event.__name__}, batch=100)."
        raise HandlerDefinitionError(f"{name} takes {_shown(first)}, but is registered for {event.__name__}.", fix=fix)


def _holds(annotation: object, event: type[Event]) -> bool:
    """Whether a parameter so annotated takes a list of events of this class."""
    kind, members = get_origin(annotation) or annotation, get_args(annotation)
    if not isinstance(kind, type):
        return annotation is not Any  # what only type checkers understand
    return _fits(kind, list) and (not members or _takes(members[0], event))


def _runs_in_loop(function: AnyHandler, second: object, returned: object, transaction: type) -> bool:
    if is_coroutine_function(function):
        return True
    promises = any(kind is not Any and issubclass(kind, Awaitable) for kind in _kinds(returned))
    wraps = is_coroutine_function(inspect.unwrap(_without_partial(function)))
    # One that makes a coroutine function into a plain one says so by the transaction that it takes.
    return (promises or wraps) and _takes(second, transaction)


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
    for leaf in leaves(annotation):
        found = get_origin(leaf) or leaf
        yield found if isinstance(found, type) or found is Any else object


def leaves(annotation: object) -> Iterator[object]:
    """Give what an annotation consists of: the members of unions, and what stands behind other names."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from leaves(member)
    elif origin is typing.Annotated:
        yield from leaves(get_args(annotation)[0])
    elif isinstance(annotation, TypeVar):
        bounds = annotation.__constraints__ or (annotation.__bound__,)
        for bound in bounds:
            yield from leaves(object if bound is None else bound)
    elif hasattr(annotation, "__supertype__"):  # a NewType
        yield from leaves(annotation.__supertype__)
    elif hasattr(annotation, "__value__"):  # a type alias
        yield from leaves(annotation.__value__)
    else:
        yield annotation


def _shown(annotation: object) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
