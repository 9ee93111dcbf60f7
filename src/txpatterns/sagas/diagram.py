"""Drawing sagas as Mermaid flowcharts."""

from __future__ import annotations

from typing import Any

from txpatterns.errors import SagaDefinitionError
from txpatterns.sagas.calls import Doubt
from txpatterns.sagas.definitions import Definition, Definitions
from txpatterns.sagas.flowchart import Flowchart, Shape
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.rows import Row, SagaCall, SagaSleep, SagaWait
from txpatterns.sagas.steplist import Saga
from txpatterns.sagas.values import name_of

_SHAPES = {Kind.STEP: Shape.STEP, Kind.CALL: Shape.CALL, Kind.WAIT: Shape.WAIT, Kind.SLEEP: Shape.WAIT}


def diagram_of(definition: Definition) -> str:
    """Draw a saga that is a list of steps: the steps, what undoes them, the pivot, and how it may end.

    The text is that of a Mermaid flowchart. Dotted arrows are failures that last: of a step behind its ladder, of an
    event that has not come in time. What a mistake in the code or an operator does is not drawn: that may be anywhere.

    Raises:
        SagaDefinitionError: it is code. Only by running it is known what it asks for, in which order and how often.
    """
    saga = definition.function
    if not isinstance(saga, Saga):
        raise SagaDefinitionError(
            f"{definition.type} is code, written at {definition.place}: what it does is known only by running it.",
            fix="Only a list of steps can be drawn: Saga(name, argument, steps=[...]). What one saga of this code has "
            "done: txp saga show ID",
        )
    return str(_Drawing(definition, saga).chart)


def only_list(definitions: Definitions) -> Definition:
    """Give the one saga of an application that can be drawn.

    Raises:
        SagaDefinitionError: there is none, or there are several.
    """
    lists = {each.type for each in definitions if isinstance(each.function, Saga)}
    found = definitions.latest(lists.pop()) if len(lists) == 1 else None
    if found is None:
        raise SagaDefinitionError(
            f"There are {len(lists)} sagas here that are lists of steps, and one is drawn at a time.",
            fix=f"Name it: {', '.join(sorted(lists))}" if lists else "Only a list of steps can be drawn.",
        )
    return found


class _Drawing:
    """A flowchart on which the undoing stands beside what it undoes, and leads back to the beginning."""

    def __init__(self, definition: Definition, saga: Saga[Any, Any]) -> None:
        self.chart = Flowchart()
        self._undoing: str | None = None
        """The last undoing so far, which is the first to be done when something fails; None: nothing is undone yet."""
        self._is_behind_pivot = False
        self._asks: str | None = None
        title = f"{definition.type}, version {definition.options.version}: {saga.argument.__name__}"
        last = self.chart.box(Shape.END, title)
        for line in saga.lines:
            box = self._pivot() if line.row is None else self._row(line.row)
            self.chart.arrow(last, box)
            last = box
        self.chart.arrow(last, self.chart.box(Shape.END, "completed"))

    def _pivot(self) -> str:
        self._is_behind_pivot = True
        return self.chart.box(Shape.MARK, "pivot: from here on only forward")

    def _row(self, row: Row[Any]) -> str:
        time = f": {row.time}" if isinstance(row, SagaSleep) else ""
        box = self.chart.box(_SHAPES[row.kind], f"{row.kind} {row.name}{time}")
        failure = "fails" if self._is_behind_pivot and isinstance(row, SagaCall) else _failure_of(row)
        if failure is not None:
            self.chart.arrow(box, self._where_it_fails(), failure, dotted=True)
        if row.compensate is not None:
            undo = self.chart.box(_SHAPES[row.kind], f"undo {row.name}: {name_of(row.compensate)}")
            self.chart.arrow(undo, self._where_it_fails())
            self._undoing = undo
        if isinstance(row, SagaCall) and not self._is_behind_pivot:
            asks = row.doubt is Doubt.ASK
            self.chart.arrow(box, self._person() if asks else self._where_it_fails(), "stays in doubt", dotted=True)
        return box

    def _where_it_fails(self) -> str:
        """Give where a failure leads now: to the last undoing, to the end, or to a person."""
        if self._is_behind_pivot:
            return self._person()
        self._undoing = self._undoing or self.chart.box(Shape.END, "compensated")
        return self._undoing

    def _person(self) -> str:
        self._asks = self._asks or self.chart.box(Shape.END, "a person is asked")
        return self._asks


def _failure_of(row: Row[Any]) -> str | None:
    if isinstance(row, SagaSleep):
        return None
    if isinstance(row, SagaWait):
        return None if row.timeout is None else f"nothing came in {row.timeout}"
    return "is refused" if isinstance(row, SagaCall) else "fails"
