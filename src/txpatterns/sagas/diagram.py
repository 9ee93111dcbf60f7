"""Drawing sagas as Mermaid flowcharts."""

from __future__ import annotations

from collections.abc import Sequence
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
        self._ends: dict[str, str] = {}
        title = f"{definition.type}, version {definition.options.version}: {saga.argument.__name__}"
        last = [self.chart.box(Shape.END, title)]
        for stage in saga.stages:
            last = self._stage([line.row for line in stage], last)
        self._follow(last, Shape.END, "completed")

    def _stage(self, rows: Sequence[Row[Any]], last: Sequence[str]) -> list[str]:
        """Draw what runs at the same time; gives the boxes that what follows waits for."""
        if not rows:
            self._is_behind_pivot = True
            return [self._follow(last, Shape.MARK, "pivot: from here on only forward")]
        if len(rows) > 1:
            last = [self._follow(last, Shape.MARK, "at the same time")]
        boxes = [self._follow(last, _SHAPES[row.kind], _text_of(row)) for row in rows]
        before, self._undoing = self._undoing, self._undo(rows)
        for row, box in zip(rows, boxes, strict=True):
            others_are_undone = any(each.compensate is not None for each in rows if each is not row)
            self._fail(row, box, self._undoing if others_are_undone else before)
        return boxes

    def _follow(self, last: Sequence[str], shape: Shape, text: str) -> str:
        box = self.chart.box(shape, text)
        for each in last:
            self.chart.arrow(each, box)
        return box

    def _undo(self, rows: Sequence[Row[Any]]) -> str | None:
        """Draw what undoes rows that run at the same time; gives where that begins."""
        boxes = [
            self.chart.box(_SHAPES[row.kind], f"undo {row.name}: {name_of(row.compensate)}")
            for row in rows
            if row.compensate is not None
        ]
        for box in boxes:
            self.chart.arrow(box, self._where_it_fails(self._undoing))
        if len(boxes) < 2:
            return boxes[0] if boxes else self._undoing
        all_of_them = self.chart.box(Shape.MARK, "undo what was done, the last first")
        for box in boxes:
            self.chart.arrow(all_of_them, box)
        return all_of_them

    def _fail(self, row: Row[Any], box: str, undoing: str | None) -> None:
        """Draw where a row leads that fails; ``undoing`` is what undoes all that was done beside it and before."""
        failure = "fails" if self._is_behind_pivot and isinstance(row, SagaCall) else _failure_of(row)
        if failure is not None:
            self.chart.arrow(box, self._where_it_fails(undoing), failure, dotted=True)
        if isinstance(row, SagaCall) and not self._is_behind_pivot:
            asks = row.doubt is Doubt.ASK
            doubted = self._end("a person is asked") if asks else self._where_it_fails(self._undoing)
            self.chart.arrow(box, doubted, "stays in doubt", dotted=True)

    def _where_it_fails(self, undoing: str | None) -> str:
        """Give where a failure leads now: to an undoing, to the end, or to a person."""
        if self._is_behind_pivot:
            return self._end("a person is asked")
        return undoing or self._end("compensated")

    def _end(self, text: str) -> str:
        if text not in self._ends:
            self._ends[text] = self.chart.box(Shape.END, text)
        return self._ends[text]


def _text_of(row: Row[Any]) -> str:
    return f"{row.kind} {row.name}: {row.time}" if isinstance(row, SagaSleep) else f"{row.kind} {row.name}"


def _failure_of(row: Row[Any]) -> str | None:
    if isinstance(row, SagaSleep):
        return None
    if isinstance(row, SagaWait):
        return None if row.timeout is None else f"nothing came in {row.timeout}"
    return "is refused" if isinstance(row, SagaCall) else "fails"
