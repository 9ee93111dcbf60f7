"""What a saga's journal says beside what its code is told: since when it waits, how often something failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Self

from txpatterns.sagas.facts import Attempted, Begun, Failed, Failure, Finished, Overdue, Undone, Waiting
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.store import Entry


@dataclass(slots=True)
class Past:
    """By the paths of operations. All times are by this process's monotonic clock."""

    attempts: dict[str, int] = field(default_factory=dict)
    """How many attempts have failed."""
    dues: dict[str, float] = field(default_factory=dict)
    """When the next attempt is due, or a wait ends."""
    begun: dict[str, float] = field(default_factory=dict)
    """When the last attempt of a call began, or before, of all that may be under way or have had their effect."""
    rows: dict[str, int] = field(default_factory=dict)
    """Which row of the journal the next failed attempt may take the place of."""
    _not_begun: set[str] = field(default_factory=set)
    """The calls of which it was noted that they were not begun."""
    undo_attempts: dict[str, int] = field(default_factory=dict)
    """How many attempts to undo something have failed."""
    undo_rows: dict[str, int] = field(default_factory=dict)
    """The same of attempts to undo something."""
    undone: list[str] = field(default_factory=list)
    failure: Failure | None = None
    """Why the saga is being undone."""
    finished: float = 0.0
    """When its code came to its end, or was brought to it."""
    is_overdue: bool = False
    """Whether a person was told that its deadline has passed."""

    @classmethod
    def of(cls, entries: Sequence[Entry], now: datetime, monotonic: float) -> Self:
        """Read a journal; ``now`` by the database's clock is ``monotonic`` by this process's."""
        past = cls()
        for entry in entries:
            since = monotonic - (now - entry.at).total_seconds()
            for fact in entry.facts:
                past._take(fact, since)
            past._keep_place(entry)
        return past

    def _take(self, fact: object, since: float) -> None:
        match fact:
            case Waiting():
                self.dues[fact.mark.path] = inf if fact.seconds is None else since + fact.seconds
            case Attempted(undoing=True):
                self.undo_attempts[fact.mark.path] = fact.number
            case Attempted():
                self.dues[fact.mark.path] = since + fact.after
                self.attempts[fact.mark.path] = fact.number
                if fact.begun:
                    self.begun.setdefault(fact.mark.path, since)
                else:
                    self.begun.pop(fact.mark.path, None)
            case Begun() | Failed():
                self.begun[fact.mark.path] = since
            case Undone():
                self.undone.append(fact.mark.path)
            case Finished():
                self.failure, self.finished = fact.failure, since
            case Overdue():
                self.is_overdue = True
            case _:
                return

    def _keep_place(self, entry: Entry) -> None:
        """Note which row is about nothing but an attempt that may be one of many."""
        for fact in entry.facts:
            if not isinstance(fact, (Attempted, Begun)):
                continue
            rows = self.undo_rows if isinstance(fact, Attempted) and fact.undoing else self.rows
            path, may_go = fact.mark.path, isinstance(fact, Begun) or (fact.folds and fact.by is None)
            if isinstance(fact, Attempted) and not fact.begun and fact.mark.kind == Kind.CALL:
                may_go = may_go and path in self._not_begun
                self._not_begun.add(path)
            if may_go and len(entry.facts) == 1:
                rows[path] = entry.n
            else:
                rows.pop(path, None)
