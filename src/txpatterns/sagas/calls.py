"""What the action of a call is given, and how it says what has become of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a call to somebody else."""

    key: str
    """Tells this call from all others, and is the same in each of its attempts: give it away as idempotency key."""
    attempt: int
    """The first is 1."""


@dataclass(frozen=True, slots=True)
class Undo(Call, Generic[R_co]):
    """One attempt to undo a call. Its ``key`` is another than the call's."""

    of: str
    """The key of what is undone."""
    result: R_co | None
    """What the call gave; None where nobody knows whether it had its effect."""


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """A probe has found that the call has had its effect, and what it gave."""

    result: R


@dataclass(frozen=True, slots=True)
class NotDone:
    """A probe has found that the call has had no effect, and will have none by itself."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A probe has found out nothing."""


class Doubt(StrEnum):
    """What is done where nobody knows whether a call has had its effect, and no probe tells."""

    AGAIN = "again"
    """It is made again with the same key: for whoever takes a key for one call only."""
    COMPENSATE = "compensate"
    """It counts as failed, and is undone with the saga."""
    ASK = "ask"
    """The saga waits for a person."""
