"""What is known of an operation that a saga's code waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from txpatterns.sagas.operations import CallOut, Operation, Step


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
