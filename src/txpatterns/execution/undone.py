"""Work that a call has returned instead of doing it: nobody would do it, and the call would count as done."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import AsyncContextDecorator, ContextDecorator
from itertools import islice
from types import FunctionType, MethodType

_CODE = (FunctionType, MethodType, functools.partial)
_CONTEXTS = (ContextDecorator, AsyncContextDecorator)
_LAZY = frozenset(("builtins", "itertools"))
"""Where the iterators are defined that do what they are for only when they are asked."""
_MOST = 1000
"""Members of a collection that are looked at: what a query has found may be long."""


def undone_in(value: object) -> str | None:
    """Say what is left to be done in what a call returned, its members included; None: nothing.

    The value itself was awaited before, if it can be.
    """
    members = list(islice(_members(value), _MOST))
    told = [*map(_told, (value, *members)), *(f"a {type(each).__name__}" for each in members if _waits(each))]
    for each in filter(inspect.iscoroutine, members):
        each.close()  # it is told here, once, that nobody has awaited it
    return next(filter(None, told), None)


def _told(value: object) -> str | None:
    if isinstance(value, _CODE):
        return f"the function {getattr(value, '__name__', type(value).__name__)} and did not call it"
    return f"a {type(value).__name__}" if _is_lazy(value) else None


def _members(value: object) -> Iterator[object]:
    members: Iterable[object] = ()
    if isinstance(value, dict):
        members = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        members = value
    return iter(members)


def _waits(value: object) -> bool:
    if isinstance(value, (Future, asyncio.Future)):
        return not value.done()
    return inspect.isawaitable(value)


def _is_lazy(value: object) -> bool:
    if isinstance(value, _CONTEXTS) or inspect.isasyncgen(value):
        return True
    return isinstance(value, Iterator) and type(value).__module__ in _LAZY
