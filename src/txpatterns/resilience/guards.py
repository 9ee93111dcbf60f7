"""What stands in front of a call: a block, in plain code and in coroutines, or a decorator."""

from __future__ import annotations

import asyncio
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from txpatterns.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class Passage(ABC):
    """One call: entered when it begins, and left when it has ended, by ``with`` or by ``async with``."""

    @abstractmethod
    def __enter__(self) -> None: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, at)


C = TypeVar("C", bound=Passage)


class _Entered:
    """What a context has entered and not left yet: the innermost first."""

    __slots__ = ("below", "guard", "passage")

    def __init__(self, guard: object, passage: Any, below: _Entered | None) -> None:
        self.guard = guard
        self.passage = passage
        self.below = below


_entered: ContextVar[_Entered | None] = ContextVar("txpatterns_guards", default=None)


class Guard(ABC, Generic[C]):
    """Many calls pass it at the same time, in threads and in tasks; each is a passage of its own.

    As a block it remembers the passage in the context, so one must be left where it was entered. What is entered in
    one thread and left in another, such as a ``def`` dependency of FastAPI that yields, uses ``passing()``.
    """

    @abstractmethod
    def passing(self) -> C:
        """Give the passage of one call, to be entered once."""

    def __enter__(self) -> None:
        passage = self.passing()
        passage.__enter__()
        _entered.set(_Entered(self, passage, _entered.get()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left().__exit__(kind, error, at)

    async def __aenter__(self) -> None:
        passage = self.passing()
        await passage.__aenter__()
        _entered.set(_Entered(self, passage, _entered.get()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._left().__aexit__(kind, error, at)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Put it in front of every call of a function, ``def`` or ``async def``.

        Raises:
            ConfigurationError: the function yields, so nobody knows when a call of it has ended; or, when it is
                called, it is a ``def`` and gives something to await.
        """
        refuse_generator(function)
        guarded: Any = self._awaiting(function) if is_awaited(function) else self._plain(function)
        wrapped: Callable[P, R] = functools.wraps(function)(guarded)
        return wrapped

    def _awaiting(self, function: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with self.passing():
                return await function(*args, **kwargs)

        return guarded

    def _plain(self, function: Callable[P, Any]) -> Callable[P, Any]:
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            with self.passing():
                given = function(*args, **kwargs)
                refuse_awaitable(function, given)
                return given

        return guarded

    def _left(self) -> C:
        """Take out the passage that this context has entered last."""
        above: list[_Entered] = []
        entry = _entered.get()
        while entry is not None and entry.guard is not self:
            above.append(entry)
            entry = entry.below
        if entry is None:
            raise ConfigurationError(
                f"{self!r} is left where it was not entered.", fix="Enter what passing() gives, and leave that."
            )
        below = entry.below
        for each in reversed(above):
            below = _Entered(each.guard, each.passage, below)
        _entered.set(below)
        passage: C = entry.passage
        return passage


def is_awaited(function: Callable[..., Any]) -> bool:
    """Whether what a call of this gives is a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004 - what it is, not whether it is there
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def refuse_generator(function: Callable[..., Any]) -> None:
    """Refuse what goes on when its call has returned."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{_name_of(function)} yields, so nobody knows when a call of it has ended.",
            fix="Put the block around the call itself.",
        )


def refuse_awaitable(function: Callable[..., Any], given: object) -> None:
    """Refuse what would do its work behind the guard's back."""
    if not inspect.isawaitable(given):
        return
    if inspect.iscoroutine(given):
        given.close()
    elif isinstance(given, asyncio.Future):
        given.cancel()
    raise ConfigurationError(
        f"{_name_of(function)} is a def and gives something to await: its work would be done behind the guard.",
        fix="Write it as async def.",
    )


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))
