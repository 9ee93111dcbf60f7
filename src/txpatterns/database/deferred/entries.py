"""What waits for a commit, of which kind it is, and who writes it then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from txpatterns.database.identity import Identity

T = TypeVar("T")


class Kind(IntEnum):
    """What a commit writes, in the order of writing: the same in each, or two commits could wait for each other.

    A kind that locks rows has a lower number than the messages, whose positions must follow the locks.
    """

    SAGAS = 10
    """Those that begin with the commit."""
    SIGNALS = 20
    """For sagas that wait."""
    MESSAGES = 100
    """Those of an outbox: always the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Writer(Generic[T]):
    """Who writes entries of one kind; made once, by whoever lets them be added."""

    kind: int
    """When it is its turn, as in ``Kind``."""
    identity: Identity
    """Of the database that the entries belong in: a commit in another one is refused."""
    write: Callable[[Connection, Sequence[T]], None]
    """Writes all that the transaction has for this writer. It may add entries of later kinds to the connection."""
    committed: Callable[[Sequence[T]], None]
    """Called with what was written when that is committed, once for each transaction."""
    sort_key: Callable[[T], Any] | None = None
    """In which order ``write`` gets them, where they lock rows; None: as they were added."""


class Entry(NamedTuple, Generic[T]):
    """One thing to be written at the commit. Its id tells it from others of its kind."""

    writer: Writer[T]
    id: str
    content: T
