"""What a saga has done, and what of that is undone: the last first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from txpatterns.sagas.operations import CallOut, Child, Operation, Step

_LEAST_SETTLING = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Deed:
    """An operation that has had its effect, or perhaps has."""

    operation: Operation[Any]
    result: object = None
    settled_at: float = 0.0
    """Until when its request may still be under way, by the monotonic clock, where nobody knows what became of it."""
    is_in_doubt: bool = False

    @property
    def path(self) -> str:
        """Where the operation stands."""
        return self.operation.mark.path

    @property
    def can_be_undone(self) -> bool:
        """Whether it has a compensation, or is a child that may go on."""
        work = self.operation.work
        if isinstance(work, Child):
            return self.is_in_doubt or work.compensate is not None
        return isinstance(work, (Step, CallOut)) and work.compensate is not None


class Undoing:
    """The deeds of a saga in the order of its journal, and which of them are undone."""

    def __init__(
        self,
        undone: Iterable[str] = (),
        attempts: Mapping[str, int] | None = None,
        rows: Mapping[str, int] | None = None,
    ) -> None:
        self.attempts = dict(attempts or {})
        """How many attempts to undo a deed have failed, by path."""
        self.rows = dict(rows or {})
        """The row of the journal that the next failed one may take the place of, by path."""
        self._deeds: list[Deed] = []
        self._undone = set(undone)

    def did(self, operation: Operation[Any], result: object) -> None:
        """An operation has had its effect."""
        self._deeds.append(Deed(operation, result))

    def may_have_done(self, operation: Operation[Any], began_at: float) -> None:
        """Nobody knows whether a call has had its effect, the last attempt of which began at this time or before."""
        settling = max(2 * operation.work.timeout, _LEAST_SETTLING)
        self._deeds.append(Deed(operation, None, began_at + settling.total_seconds(), is_in_doubt=True))

    def may_go_on(self, operation: Operation[Any]) -> None:
        """Nobody waits any more for the end of a child."""
        self._deeds.append(Deed(operation, is_in_doubt=True))

    def undid(self, path: str) -> None:
        """A deed is undone."""
        self._undone.add(path)

    def next(self) -> Deed | None:
        """Give the deed that is to be undone next; None: nothing is left."""
        return next(self.left(), None)

    def left(self) -> Iterator[Deed]:
        """Give the deeds that are to be undone, the next one first."""
        return (deed for deed in reversed(self._deeds) if deed.can_be_undone and deed.path not in self._undone)
