"""The facts of a saga's journal: what happened, in the order in which the saga's code learned of it.

What one write adds to a journal is a list of facts, written as one JSON text; a rebuilt saga is given the
same facts in the same order. A mark (path, kind, name, digest) says which operation a fact is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from txpatterns.errors import SagaDiverged


class Mark(NamedTuple):
    """What tells an operation from the others of its saga, and whether the code still asks for the same."""

    path: str
    """Its branch, and its number in that: ``2.0.1`` is the first of the first branch of the second operation."""
    kind: str
    name: str
    digest: str
    """Of its arguments."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the journal keeps it."""

    type: str
    """The class, as ``module:name``."""
    text: str
    arguments: str | None = None
    """What the class is called with to make the same error again, as JSON; None: it cannot be made again."""
    unknown: bool = False
    """Whether nobody knows if what failed has had its effect."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A call may be under way from here on."""

    mark: Mark
    fact: Literal["begun"] = "begun"


@dataclass(frozen=True, slots=True)
class Ended:
    """An operation has ended, with this value, as JSON."""

    mark: Mark
    value: str
    signal: int | None = None
    """Which signal has ended a wait."""
    fact: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Failed:
    """An operation has failed for good."""

    mark: Mark
    failure: Failure
    fact: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that the code was told, or asked for, without waiting: a time, a random number, a message."""

    mark: Mark
    value: str
    fact: Literal["noted"] = "noted"


@dataclass(frozen=True, slots=True)
class Attempted:
    """A try of an operation, or of undoing it, has failed; another one follows."""

    mark: Mark
    number: int
    failure: Failure
    after: float
    """Seconds from then to the next one, at least."""
    undoing: bool = False
    begun: bool = True
    """Whether a call may be under way since: not where nothing of it was begun, and what is written of that is void."""
    by: str | None = None
    """Who has brought the next one forward; None: a try has failed."""
    folds: bool = False
    """Whether it may go on like that for long: the next one takes its place in the journal."""
    fact: Literal["attempted"] = "attempted"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The code waits from here on, for so many seconds; None: for as long as it takes."""

    mark: Mark
    seconds: float | None
    fact: Literal["waiting"] = "waiting"


@dataclass(frozen=True, slots=True)
class Undone:
    """What an operation did is undone."""

    mark: Mark
    fact: Literal["undone"] = "undone"


PARENT = "parent"
"""Who has ended a saga that was cancelled by the one that had started it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The code has come to its end: with a value, as JSON, or with an error."""

    value: str | None = None
    failure: Failure | None = None
    by: str | None = None
    """Who has ended it, wherever its code is; None: the code itself."""
    fact: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class Overdue:
    """The saga's deadline has passed behind its pivot: it goes on, and a person was told."""

    fact: Literal["overdue"] = "overdue"


@dataclass(frozen=True, slots=True)
class Restarted:
    """The code begins anew with these arguments, as JSON: this is the end of its run."""

    args: str
    fact: Literal["restarted"] = "restarted"


@dataclass(frozen=True, slots=True)
class Had:
    """A run before has had the events of a channel and key up to this one."""

    channel: str
    key: str
    signal: int
    fact: Literal["had"] = "had"


_Ended = Ended | Failed | Undone | Finished | Restarted
Fact = Annotated[_Ended | Begun | Noted | Attempted | Waiting | Overdue | Had, Field(discriminator="fact")]
_FACTS: TypeAdapter[list[Fact]] = TypeAdapter(list[Fact])


def written(facts: Sequence[Fact]) -> str:
    """Give the text that the journal keeps."""
    return _FACTS.dump_json(list(facts)).decode()


def read(text: str | bytes) -> list[Fact]:
    """Give the facts of such a text.

    Raises:
        SagaDiverged: another version has written what this one does not know.
    """
    try:
        return _FACTS.validate_json(text)
    except ValidationError as error:
        raise SagaDiverged(
            f"The journal holds a fact that this version cannot read: {error.errors()[0]['msg']}."
        ) from error
