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

Steps = Sequence[Row[D] | Pivot | Sequence[Row[D]]]
"""A list of steps as it is written: a row, or several that run at the same time, or the pivot."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row in its place, and the names of the former results that it is given."""

    row: Row[Any]
    takes: Sequence[str]


Stage = Sequence[Line]
"""What runs at the same time, when all before it has ended; without a line it is the pivot."""


class Saga(Generic[D, R]):
    """A saga as a list of steps, one after the other, in place of an ``async def``: for those who prefer a table.

    ``argument`` is the class of the one argument that it is started with, a pydantic model or a dataclass. A step that
    fails for good undoes those before it, the last first; behind ``PIVOT`` the saga only goes forward. ``result`` is a
    plain function of the argument and of results by their names, whose value is the saga's; without it that is None.

    A list within the list is of steps that run at the same time: none is given what another of them gives, and what
    follows begins when all have ended. When one fails, the others are waited for, and undone as they have ended, the
    last first.

    Register and start it as any other: ``app.saga()(checkout)``, ``app.sagas.start(session, checkout, cart, id=...)``.
    Its fingerprint is of the list and of the text of all functions in it: a saga that has stopped at a mistake in a
    step goes on when that is mended.

    Type checkers know the argument, the transaction, what a compensation undoes and what ``result`` gives. That a
    function takes results by names that there are, and of their types, they do not know: that is checked here.

    Raises:
        SagaDefinitionError: there is no step; two have one name; a compensation stands behind the pivot; a function
            does not fit, or gives what a journal cannot carry; a list within the list is of less than two steps.
    """

    @overload
    def __init__(self: Saga[D, None], name: str, argument: type[D], steps: Steps[D]) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        argument: type[D],
        steps: Steps[D],
        *,
        result: Callable[Concatenate[D, ...], R],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        argument: type[D],
        steps: Steps[D],
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
        self.stages = _stages(name, argument, steps)
        self._result = result
        self._given = [] if result is None else results_taken(result, {"the argument": argument}, _results(self.stages))
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
        rows = (line.row for stage in self.stages for line in stage)
        return tuple(dict.fromkeys(row.signal for row in rows if isinstance(row, SagaWait)))

    def _compiled(self, name: str) -> Callable[[SagaContext, D], Coroutine[Any, Any, R]]:
        """Make the code that a saga of this kind is."""

        async def code(saga: SagaContext, argument: D) -> R:
            results: dict[str, object] = {}
            for stage in self.stages:
                begun = [line.row.begin(saga, argument, [results[taken] for taken in line.takes]) for line in stage]
                match begun:
                    case []:
                        saga.pivot()
                    case [alone]:
                        results[stage[0].row.name] = await alone
                    case _:
                        given = await saga.gather(*begun, at_once=len(begun))
                        results.update(zip((line.row.name for line in stage), given, strict=True))
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
        for stage in self.stages:
            if len(stage) != 1:
                told.append(f"{len(stage)} at once" if stage else "pivot")
            for row in (line.row for line in stage):
                told += [row.kind, row.name, *map(_told, row.parts())]
        return blake2b("\0".join(told).encode(), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Saga({self.__name__!r}, {self.argument.__name__})"


def _stages(name: str, argument: type, steps: Steps[Any]) -> list[Stage]:
    """Give each row what it takes; refuses a list that is none."""
    stages: list[Stage] = []
    for step in steps:
        if isinstance(step, Pivot):
            if () in stages:
                raise SagaDefinitionError(f"{name} has two pivots.", fix="Leave the second one out.")
            stages.append(())
            continue
        rows = [step] if isinstance(step, Row) else _at_once(name, step)
        former = _results(stages)
        _check_names(name, [*former, *(row.name for row in rows)])
        if () in stages:
            _check_behind_the_pivot(rows)
        stages.append(tuple(Line(row, row.takes(argument, former)) for row in rows))
    if not _results(stages):
        raise SagaDefinitionError(f"{name} has no steps.", fix="Give it one SagaStep or SagaCall at least.")
    return stages


def _at_once(name: str, steps: object) -> Sequence[Row[Any]]:
    """Give the rows of a list within the list."""
    if not isinstance(steps, (list, tuple)):
        raise SagaDefinitionError(
            f"{name} has {steps!r} among its steps.",
            fix="They are SagaStep, SagaCall, SagaWait, SagaSleep and PIVOT, or a list of what runs at the same time.",
        )
    for step in steps:
        if not isinstance(step, Row):
            raise SagaDefinitionError(
                f"{name} has {step!r} among steps that run at the same time.",
                fix="They are SagaStep, SagaCall, SagaWait and SagaSleep; a list of lists and more are for code.",
            )
    if len(steps) < 2:
        raise SagaDefinitionError(
            f"{name} has a list of {len(steps)} among its steps; what runs at the same time is two steps at least.",
            fix="Write a step that runs alone without a list around it.",
        )
    return steps


def _check_names(name: str, names: Sequence[str]) -> None:
    for at, each in enumerate(names):
        if each in names[:at]:
            raise SagaDefinitionError(f"{name} has two steps called {each}.", fix="Give each a name of its own.")


def _check_behind_the_pivot(rows: Sequence[Row[Any]]) -> None:
    for row in rows:
        if row.compensate is not None:
            raise SagaDefinitionError(
                f"{row.name} has a compensation, but stands behind the pivot: nothing is undone from there on.",
                fix="Leave compensate= out, or put it before PIVOT.",
            )


def _results(stages: Sequence[Stage]) -> Mapping[str, Any]:
    return {line.row.name: line.row.result for stage in stages for line in stage}


def _told(part: object) -> str:
    return text_of(part) if callable(part) else repr(part)
