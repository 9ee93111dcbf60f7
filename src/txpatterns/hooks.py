"""What the runtime tells to whoever listens: telemetry, logs, tests. Without listeners it costs one call.

What can be told are the moments of the patterns, each in the pattern's own ``moments`` module: a frozen value that has
happened, or a span that begins and ends.
"""

from __future__ import annotations

import inspect
import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, overload

from txpatterns.correlation import current_lineage
from txpatterns.errors import ConfigurationError

logger = logging.getLogger("txpatterns")


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that has happened."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that begins and ends."""


L = TypeVar("L")
M = TypeVar("M", bound=Moment)
S = TypeVar("S", bound=Span)

_Kind = type[Moment] | type[Span]
_Method = Callable[[Any, Any], Any]
_Context = AbstractContextManager[object]

_MARK = "__txpatterns_hears__"
_EXAMPLE = "@on(Dead)\ndef page(self, dead: Dead) -> None: ..."


@overload
def on(kind: type[S]) -> Callable[[Callable[[L, S], _Context]], Callable[[L, S], _Context]]: ...
@overload
def on(kind: type[M]) -> Callable[[Callable[[L, M], None]], Callable[[L, M], None]]: ...
def on(kind: type[Any]) -> Callable[[_Method], _Method]:
    """Mark a method of a listener: it is called with each moment of this class, or of one derived from it.

    For a span the method gives a context manager, which is entered when the span begins and left when it ends, with
    the error if there was one.

    Raises:
        ConfigurationError: this is no class of moments; or, at the class, the method cannot be called for them.
    """
    if not _is_kind(kind):
        raise ConfigurationError(f"on({kind!r}): that is no class of moments.", fix=f"Write: {_EXAMPLE}")

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, kind)
        return method

    return mark


class Hooks:
    """What listens: derive a class, and mark a method with ``@on(...)`` for each kind of moment that it wants.

    A hook must be quick and must not raise: what it raises is logged once and never reaches the runtime. A method that
    a subclass overrides stays marked as it was.
    """

    logs: ClassVar[bool] = False
    """Whether this listener writes log lines; an App without such a one writes its failures into Python's own log."""

    _marks: ClassVar[Mapping[str, _Kind]] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._marks = _marks_of(cls)

    def headers(self) -> Mapping[str, str]:
        """Give headers to store with a message that is being added, for example the trace context."""
        return {}

    @classmethod
    def methods(cls, kind: _Kind) -> tuple[_Method, ...]:
        """Give the methods, as functions, that are called for one kind of moment."""
        return tuple(getattr(cls, name) for name, marked in cls._marks.items() if issubclass(kind, marked))

    @classmethod
    def hears(cls) -> bool:
        """Whether there is anything at all that this listener is called for."""
        return bool(cls._marks) or cls.headers is not Hooks.headers


class HookList:
    """Several listeners as one. What a listener raises is logged, and the others are still told.

    The same fault of a listener at the same moment is logged once, not with every message.

    Raises:
        ConfigurationError: an object is no listener, or none of its methods is marked.
    """

    def __init__(self, listeners: Sequence[Hooks] = ()) -> None:
        self.listeners: tuple[Hooks, ...] = ()
        self._told: dict[_Kind, tuple[tuple[Hooks, _Method], ...]] = {}
        self._faults: set[tuple[type[Hooks], str, type[BaseException]]] = set()
        for listener in listeners:
            self.add(listener)

    @classmethod
    def of(cls, given: HookList | Hooks | Sequence[Hooks] | None) -> HookList:
        """Make one guarded list of what a constructor was given: nothing, one listener or several."""
        if isinstance(given, HookList):
            return given
        return cls([given] if isinstance(given, Hooks) else given or ())

    def add(self, listener: Hooks) -> None:
        """Tell one more listener from now on, after the others."""
        _refuse_deaf(listener)
        self.listeners, self._told = (*self.listeners, listener), {}

    def wants(self, kind: _Kind) -> bool:
        """Whether any listener wants to hear of such moments, for what costs something to find out."""
        return bool(self._to_call(kind))

    def headers(self) -> dict[str, str]:
        """Give the headers that belong to each message which is added here: those of its story, and the listeners'."""
        found = dict(current_lineage())
        for listener in self.listeners:
            with self._guarded(listener, "headers"):
                found.update(listener.headers())
        return found

    def tell(self, moment: Moment) -> None:
        """Tell what has happened to all who want to hear of it."""
        kind = type(moment)
        for listener, method in self._to_call(kind):
            with self._guarded(listener, kind.__name__):
                method(listener, moment)

    def within(self, span: Span) -> _Context:
        """Give what to enter when something begins; leaving it tells the end to all who have heard of the beginning."""
        return self._within(span) if self.wants(type(span)) else nullcontext()

    def _to_call(self, kind: _Kind) -> tuple[tuple[Hooks, _Method], ...]:
        told = self._told  # asked for before the listeners: one that is added meanwhile makes a new one
        found = told.get(kind)
        if found is None:
            found = told[kind] = tuple((each, method) for each in self.listeners for method in each.methods(kind))
        return found

    @contextmanager
    def _within(self, span: Span) -> Iterator[None]:
        kind, entered = type(span), list[tuple[Hooks, _Context]]()
        for listener, method in self._to_call(kind):
            with self._guarded(listener, kind.__name__):
                context: _Context = method(listener, span)
                context.__enter__()
                entered.append((listener, context))
        try:
            yield
        except BaseException as error:
            self._leave(entered, kind.__name__, error)
            raise
        self._leave(entered, kind.__name__, None)

    def _leave(self, entered: list[tuple[Hooks, _Context]], moment: str, error: BaseException | None) -> None:
        # The answer of __exit__ is ignored: a listener that swallowed a handler's error would let its failure commit.
        for listener, context in reversed(entered):
            with self._guarded(listener, moment):
                context.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    @contextmanager
    def _guarded(self, listener: Hooks, moment: str) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit, CancelledError):
            raise
        except BaseException as error:
            fault = (type(listener), moment, type(error))
            if fault not in self._faults:
                self._faults.add(fault)
                logger.exception("listener %s failed at %s; it goes on being told", type(listener).__name__, moment)


def _refuse_deaf(listener: object) -> None:
    if not isinstance(listener, Hooks):
        raise ConfigurationError(
            f"{listener!r} is no listener.", fix="Give an object of a class that derives from Hooks."
        )
    if not listener.hears():
        raise ConfigurationError(
            f"{type(listener).__name__} would never be called: none of its methods is marked.", fix=f"Write: {_EXAMPLE}"
        )


def _is_kind(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Moment | Span)


def _marks_of(listener: type[Hooks]) -> dict[str, _Kind]:
    marks: dict[str, _Kind] = {}
    for base in reversed(listener.__mro__):
        for name, value in vars(base).items():
            if hasattr(value, _MARK):
                marks[name] = getattr(value, _MARK)
            if name in marks:
                _refuse_never_run(f"{listener.__name__}.{name}", value)
    return marks


def _refuse_never_run(name: str, method: object) -> None:
    """Refuse what, called, would do nothing yet: nobody awaits or iterates it."""
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise ConfigurationError(f"{name} is async def, and nobody would await it.", fix="Write it as def.")
    if inspect.isgeneratorfunction(method):
        raise ConfigurationError(
            f"{name} yields, but is no context manager.", fix="Put @contextmanager between @on(...) and the method."
        )
    if not callable(method):
        raise ConfigurationError(f"{name} is marked, and cannot be called.", fix=f"Write: {_EXAMPLE}")
