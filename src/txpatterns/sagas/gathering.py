"""Several parts of a saga's code at once."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from txpatterns.sagas.operations import First, Gather, Operation
from txpatterns.sagas.strands import Error, Outcome, Then, Value


class Parts(Protocol):
    """Who begins the parts."""

    def part(self, awaitable: Awaitable[Any], prefix: str, then: Then) -> Outcome | None:
        """Begin one, in a branch with this prefix; gives its outcome where it has one already."""

    def forget(self, parts: Iterable[Awaitable[Any]]) -> None:
        """Let go of parts that are not begun any more."""

    def drop(self, operation: Operation[Any]) -> None:
        """Wait no longer for an operation."""


class Gathering:
    """Several parts at once. It has ended when all have that were begun; with the first error, if there is one."""

    def __init__(self, parts: Parts, path: str, work: Gather, then: Then) -> None:
        self._parts = parts
        self._path = path
        self._work = work
        self._then = then
        self._results: list[object] = [None] * len(work.parts)
        self._next = 0
        self._running = 0
        self._error: Error | None = None
        self._is_beginning = True

    def begin(self) -> Outcome | None:
        """Begin as many parts as may run at once; gives the outcome if they have all ended by then."""
        self._go_on()
        self._is_beginning = False
        return self._outcome()

    def _go_on(self) -> None:
        while self._error is None and self._running < self._work.at_once and self._next < len(self._work.parts):
            index = self._next
            self._next += 1
            self._running += 1
            outcome = self._parts.part(self._work.parts[index], f"{self._path}.{index}", self._ender(index))
            if outcome is not None:
                self._end(index, outcome)

    def _ender(self, index: int) -> Then:
        def ended(outcome: Outcome) -> None:
            self._end(index, outcome)
            if self._is_beginning:
                return
            self._is_beginning = True
            self._go_on()
            self._is_beginning = False
            whole = self._outcome()
            if whole is not None:
                self._then(whole)

        return ended

    def _end(self, index: int, outcome: Outcome) -> None:
        self._running -= 1
        if isinstance(outcome, Value):
            self._results[index] = outcome.value
        elif self._error is None:
            self._error = outcome

    def _outcome(self) -> Outcome | None:
        if self._running or (self._error is None and self._next < len(self._work.parts)):
            return None
        if self._error is not None:
            self._parts.forget(self._work.parts[self._next :])
            return self._error
        return Value(tuple(self._results))


class Racing:
    """Several waits, of which the first to end is what counts."""

    def __init__(self, parts: Parts, work: First, then: Then) -> None:
        self._parts = parts
        self._work = work
        self._then = then

    def begin(self) -> None:
        """Begin to wait for all of them."""
        for part in self._work.parts:
            self._parts.part(part, "", self._ender(part))

    def _ender(self, ended: Operation[Any]) -> Then:
        def end(outcome: Outcome) -> None:
            for part in self._work.parts:
                if part is not ended:
                    self._parts.drop(part)
            self._then(outcome)

        return end
