"""What is run, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.errors import TxPatternsError


class Came(Enum):
    """What came of running somebody's code."""

    DONE = "done"
    """Its transaction is committed."""
    REFUSED = "refused"
    """The opening said no; nothing ran."""
    FAILED = "failed"
    """It raised, or what it wrote could not be committed; all is rolled back."""
    REPEAT = "repeat"
    """The database gave the transaction up for another's sake; all is rolled back, and it may run again at once."""
    ENDED = "ended"
    """It ended the transaction by itself, and what it had written until then is committed."""
    OUTAGE = "outage"
    """The database could not be worked with. Whether a commit under way took place is not known."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, with the error where there was one and what the code returned where it is done."""

    came: Came
    error: BaseException | None = None
    ended: bool = False
    """Whether the code ended the transaction by itself, so that its record may stand although it failed."""
    value: object = None
    began: bool = False
    """With ``OUTAGE``: whether the code ran, so that the connection was lost in it, or at its commit."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose code runs, and for what: as errors, the log and ``health()`` name it."""

    name: str
    subject: str
    place: str
    """Where the code is written: file, line and function."""
    misfit: type[TxPatternsError]
    """Raised where such code returns work instead of doing it."""
    over_limit: type[TxPatternsError]
    """Raised where such code takes longer than it may."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Run:
    """One execution: the code, what opens and closes its transaction, and what stands for it."""

    origin: Origin
    call: Callable[[Any], Any]
    """The code; it gets the session, an ``AsyncSession`` when it runs in the event loop and a ``Session`` otherwise."""
    in_loop: bool
    opening: Callable[[Connection], bool]
    """Runs first in the transaction, and says whether the code may run. It sends a statement: with it drivers begin."""
    stands: Callable[[Connection], bool]
    """Whether what the opening wrote is still there."""
    around: Callable[[], AbstractContextManager[object]]
    over: Callable[[], None] = _nothing
    """Called when the code has returned or raised."""
    closing: Callable[[Connection, object], None] | None = None
    """Runs last in the transaction, behind all that the code's session had to write, with what the code returned."""
    limit: timedelta | None = None
    """How long the code may take. Only code that waits in the event loop can be cut off; other is named."""
