"""A saga as a list of steps: it is compiled to the code that one would have written, and run by the same engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Concatenate, Generic, TypeVar, overload

from txpatterns.errors import SagaDefinitionError
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.fingerprints import text_of
from txpatterns.sagas.fitting import results_taken
from txpatterns.sagas.rows import Pivot, Row, SagaWait
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.values import annotation_of_result, form_of_arguments, form_of_result

D = TypeVar("D")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Line:
    """A row in its place, and the names of the former results that it is given; without a row it is the pivot."""

    row: Row[Any] | None
    takes: Sequence[str] = ()


class Saga(Generic[D, R]):
    """A saga as a list of steps, one after the other, in place of an ``async def``: for those who prefer a table.

    ``argument`` is the class of the one argument that it is started with, a pydantic model or a dataclass. A step that
    fails for good undoes those before it, the last first; behind ``PIVOT`` the saga only goes forward. ``result`` is a
    plain function of the argument and of results by their names, whose value is the saga's; without it that is None.

    Register and start it as any other: ``app.saga()(checkout)``, ``app.sagas.start(session, checkout, cart, id=...)``.
    Its fingerprint is of the list and of the text of all functions in it: a saga that has stopped at a mistake in a
    step goes on when that is mended.

    Type checkers know the argument, the transaction, what a compensation undoes and what ``result`` gives. That a
    function takes results by names that there are, and of their types, they do not know: that is checked here.

    Raises:
        SagaDefinitionError: there is no step; two have one name; a compensation stands behind the pivot; a function
            does not fit, or gives what a journal cannot carry.
    """

    @overload
    def __init__(self: Saga[D, None], name: str, argument: type[D], steps: Sequence[Row[D] | Pivot]) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        argument: type[D],
        steps: Sequence[Row[D] | Pivot],
        *,
        result: Callable[Concatenate[D, ...], R],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        argument: type[D],
        steps: Sequence[Row[D] | Pivot],
        *,
        result: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(argument, type):
            raise SagaDefinitionError(
                f"{name} is given {argument!r} as the class of its argument.",
                fix='Write: Saga("checkout", Cart, steps=[...])',
            )
        caller = sys._getframe(1)  # noqa: SLF001 - where the list is written is said in errors
        self.place = f"{caller.f_code.co_filename}:{caller.f_lineno} in {caller.f_code.co_qualname}"
        self.argument = argument
        self.lines = _lines(name, argument, steps)
        self._result = result
        self._given = [] if result is None else results_taken(result, {"the argument": argument}, _results(self.lines))
        self.__name__ = name
        self.__wrapped__ = self._compiled(name)
        form_of_arguments(self.__wrapped__)
        form_of_result(self.__wrapped__)
        self.fingerprint = self._fingerprint()

    def __call__(self, saga: SagaContext, argument: D, /) -> Coroutine[Any, Any, R]:
        return self.__wrapped__(saga, argument)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The events that it waits for."""
        return tuple(dict.fromkeys(line.row.signal for line in self.lines if isinstance(line.row, SagaWait)))

    def _compiled(self, name: str) -> Callable[[SagaContext, D], Coroutine[Any, Any, R]]:
        """Make the code that a saga of this kind is."""

        async def code(saga: SagaContext, argument: D) -> R:
            results: dict[str, object] = {}
            for line in self.lines:
                if line.row is None:
                    saga.pivot()
                else:
                    given = [results[taken] for taken in line.takes]
                    results[line.row.name] = await line.row.begin(saga, argument, given)
            whole: Any = None
            if self._result is not None:
                whole = self._result(argument, *(results[taken] for taken in self._given))
            returned: R = whole
            return returned

        gives = type(None) if self._result is None else annotation_of_result(self._result)
        code.__name__ = code.__qualname__ = name
        code.__annotations__ = {"saga": SagaContext, "argument": self.argument, "return": gives}
        return code

    def _fingerprint(self) -> str:
        told = [self.__name__, self.argument.__qualname__, _told(self._result)]
        for line in self.lines:
            row = line.row
            told += ["pivot"] if row is None else [row.kind, row.name, *map(_told, row.parts())]
        return blake2b("\0".join(told).encode(), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Saga({self.__name__!r}, {self.argument.__name__})"


def _lines(name: str, argument: type, steps: Sequence[Row[Any] | Pivot]) -> list[Line]:
    """Give each row what it takes; refuses a list that is none."""
    lines: list[Line] = []
    for step in steps:
        is_behind_pivot, former = any(line.row is None for line in lines), _results(lines)
        if isinstance(step, Pivot):
            if is_behind_pivot:
                raise SagaDefinitionError(f"{name} has two pivots.", fix="Leave the second one out.")
            lines.append(Line(None))
        elif not isinstance(step, Row):
            raise SagaDefinitionError(
                f"{name} has {step!r} among its steps.",
                fix="They are SagaStep, SagaCall, SagaWait, SagaSleep and PIVOT.",
            )
        elif step.name in former:
            raise SagaDefinitionError(f"{name} has two steps called {step.name}.", fix="Give each a name of its own.")
        elif is_behind_pivot and step.compensate is not None:
            raise SagaDefinitionError(
                f"{step.name} has a compensation, but stands behind the pivot: nothing is undone from there on.",
                fix="Leave compensate= out, or put it before PIVOT.",
            )
        else:
            lines.append(Line(step, step.takes(argument, former)))
    if not _results(lines):
        raise SagaDefinitionError(f"{name} has no steps.", fix="Give it one SagaStep or SagaCall at least.")
    return lines


def _results(lines: Sequence[Line]) -> Mapping[str, Any]:
    return {line.row.name: line.row.result for line in lines if line.row is not None}


def _told(part: object) -> str:
    return text_of(part) if callable(part) else repr(part)
