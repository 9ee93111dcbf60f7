"""What goes with whatever is written next of a saga."""

from __future__ import annotations

from dataclasses import dataclass, field

from txpatterns.messages import Event
from txpatterns.sagas.facts import Fact


@dataclass(slots=True)
class Pending:
    """What a saga's code was told, has sent, and waits for no longer, that is not written yet."""

    facts: list[Fact] = field(default_factory=list)
    emits: list[tuple[str, Event]] = field(default_factory=list)
    """The events, each with its path."""
    unwaits: list[str] = field(default_factory=list)
    """The paths of what is waited for no longer."""
    cancels: list[tuple[str, str]] = field(default_factory=list)
    """The types and ids of children among these."""
    leaves: list[str] = field(default_factory=list)
    """The paths of locks that are not waited for any more."""
