"""What a saga's code awaits: operations, which the engine carries out and whose results the journal keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from txpatterns.retries import RetryLadder
from txpatterns.sagas.calls import Doubt
from txpatterns.sagas.facts import Mark

R_co = TypeVar("R_co", covariant=True)


class Kind(StrEnum):
    """The kinds of operations, as the journal names them."""

    STEP = "step"
    CALL = "call"
    SLEEP = "sleep"
    GATHER = "gather"
    WAIT = "wait"
    COMMAND = "command"
    CHILD = "child"
    LOCK = "lock"
    FIRST = "first"
    EMIT = "emit"
    PIVOT = "pivot"
    NOW = "now"
    UUID = "uuid"
    RANDOM = "random"


class Suspended(BaseException):
    """The saga's code is put away until what it waits for has come; it is neither undone nor at its end."""


class Aborted(Exception):
    """The saga's code wants to be undone."""


class Restarting(BaseException):
    """The saga's code wants to begin anew, with these arguments."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.arguments = arguments


class Owner(Protocol):
    """What an operation belongs to: one run of a saga's code."""

    def check_open(self) -> None:
        """Raise Suspended where the code is being put away."""


class Operation(Generic[R_co]):
    """Something that a saga's code awaits, once. It takes its place in the journal when it is made."""

    __slots__ = ("is_awaited", "mark", "owner", "work")

    def __init__(self, owner: Owner, mark: Mark, work: Any) -> None:
        self.owner = owner
        self.mark = mark
        self.work = work
        """What is to be done: a ``Step`` and so on, as the kind says."""
        self.is_awaited = False

    def __await__(self) -> Generator[Operation[Any], Any, R_co]:
        self.owner.check_open()
        result: R_co = yield self
        return result

    def __repr__(self) -> str:
        return f"<{self.mark} at {self.mark.path}>"


class Wait(Operation[R_co]):
    """An operation that does nothing but wait, so that it can be dropped."""

    __slots__ = ()


class Form(Protocol):
    """How the result of an action is written, and read."""

    def write(self, value: object) -> tuple[str, object]:
        """Give the JSON text of a value, and the value as it is read from that."""

    def read(self, text: str) -> object:
        """Give the value of a text."""


@dataclass(frozen=True, slots=True)
class Step:
    """Work in a transaction of the application's own database, which the fact that it is done commits with."""

    action: Callable[..., Any]
    arguments: tuple[Any, ...]
    compensate: Callable[..., Any] | None
    ladder: RetryLadder
    form: Form


@dataclass(frozen=True, slots=True)
class CallOut:
    """A call to somebody else, outside of any transaction: at least once."""

    action: Callable[..., Any]
    arguments: tuple[Any, ...]
    compensate: Callable[..., Any] | None
    probe: Callable[..., Any] | None
    doubt: Doubt
    timeout: timedelta
    ladder: RetryLadder
    form: Form


@dataclass(frozen=True, slots=True)
class Sleep:
    """Waiting until a time has passed."""

    time: timedelta


@dataclass(frozen=True, slots=True)
class Outside:
    """Waiting for what others bring: a row says so, and whoever brings it wakes the saga."""

    @property
    def limit(self) -> timedelta | None:
        """How long it is waited for, at most; None: for ever."""
        return None


@dataclass(frozen=True, slots=True)
class Child(Outside):
    """Another saga, which is started and whose end is waited for."""

    type: str
    id: str
    version: int
    args: str
    """Its arguments, as JSON."""
    digest: str
    deadline: timedelta | None
    form: Form
    compensate: Callable[..., Any] | None
    arguments: tuple[Any, ...]
    ladder: RetryLadder
    """Of the compensation."""


@dataclass(frozen=True, slots=True)
class Lock(Outside):
    """Having something alone, from then until the end of the saga."""

    name: str
    timeout: timedelta

    @property
    def limit(self) -> timedelta | None:
        """How long it is waited for, at most."""
        return self.timeout


@dataclass(frozen=True, slots=True)
class First:
    """Whichever of several waits ends first; the others are dropped."""

    parts: Sequence[Wait[Any]]


@dataclass(frozen=True, slots=True)
class Gather:
    """Several at once: operations, or coroutines, each of which is a branch of the code."""

    parts: Sequence[Awaitable[Any]]
    at_once: int
