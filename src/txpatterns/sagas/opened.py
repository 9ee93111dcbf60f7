"""What a saga's code waits for, and what is known of each such operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from txpatterns.clock import Clock
from txpatterns.sagas.facts import Begun, Fact, Waiting
from txpatterns.sagas.operations import CallOut, Operation, Outside, Sleep, Step
from txpatterns.sagas.past import Past


@dataclass(slots=True)
class Open:
    """An operation that the code waits for."""

    operation: Operation[Any]
    attempts: int = 0
    due: float = 0.0
    """When it is to be begun, or ends by itself, by the monotonic clock."""
    is_ready: bool = False
    """Whether it is written down that the code waits for it: nothing begins before."""
    is_running: bool = False
    is_begun: bool = True
    """Whether it is written down that a call may be under way."""
    is_in_doubt: bool = False
    """Whether a call may have had its effect already."""
    row: int | None = None
    """The row of the journal that the next failed attempt may take the place of."""
    is_registered: bool = False
    """Whether it is kept that an event is waited for."""

    @property
    def is_flagged(self) -> bool:
        """Whether it has failed so often that a person was told, and is tried on."""
        work = self.operation.work
        return isinstance(work, (Step, CallOut)) and self.attempts >= work.ladder.attempts

    @property
    def path(self) -> str:
        """Its place."""
        return self.operation.mark.path


class OpenOperations(dict[str, Open]):
    """The operations that a saga's code waits for, by path."""

    def __init__(self, clock: Clock, past: Past) -> None:
        super().__init__()
        self._clock = clock
        self._past = past

    @property
    def has_flagged(self) -> bool:
        """Whether one of them has failed so often that a person was told."""
        return any(each.is_flagged for each in self.values())

    @property
    def are_outside(self) -> bool:
        """Whether others bring what one of them waits for."""
        return any(isinstance(each.operation.work, Outside) for each in self.values())

    def begin(self, operation: Operation[Any]) -> list[Fact]:
        """Wait for one more, on from where the journal has left it; gives what is to be noted of that."""
        path, work, past = operation.mark.path, operation.work, self._past
        opened = Open(operation, past.attempts.get(path, 0), past.dues.get(path, 0.0), row=past.rows.get(path))
        self[path] = opened
        match work:
            case CallOut() if path in past.begun:
                opened.is_in_doubt = True
            case CallOut():
                opened.is_begun = path not in past.attempts  # else that is written when it is due
                return [Begun(operation.mark)] if opened.is_begun else []
            case Outside():
                opened.is_registered = path in past.dues
            case Sleep() if path not in past.dues:
                seconds = work.time.total_seconds()
                opened.due = self._clock.monotonic() + seconds
                return [Waiting(operation.mark, seconds)]
        return []

    def first_due(self) -> float | None:
        """Say when the first of them is due, of which all wait for a time; None: there is something to do now."""
        now = self._clock.monotonic()
        if any(each.is_running or each.due <= now for each in self.values()):
            return None
        if any(isinstance(each.operation.work, Outside) and not each.is_registered for each in self.values()):
            return None
        return min((each.due for each in self.values()), default=None)
