"""What happens to TCC transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from txpatterns.hooks import Moment, Span


@dataclass(frozen=True, slots=True)
class BranchRuns(Span):
    """A participant is asked to try, to confirm or to cancel, until it has answered."""

    participant: str
    operation: str
    """``try``, ``confirm`` or ``cancel``."""
    transaction_id: str
    attempt: int
    headers: Mapping[str, str]
    """What was stored with the transaction: the correlation id, and the trace."""


@dataclass(frozen=True, slots=True)
class BranchDone(Moment):
    """A participant has done what it was asked for, and that is committed."""

    participant: str
    operation: str
    transaction_id: str


@dataclass(frozen=True, slots=True)
class BranchRaised(Moment):
    """A participant raised. What it wrote in our database is rolled back."""

    participant: str
    operation: str
    transaction_id: str
    error: BaseException
    attempt: int


@dataclass(frozen=True, slots=True)
class TccEnded(Moment):
    """A transaction has come to its end: all is confirmed, or all is cancelled."""

    transaction_id: str
    status: str


@dataclass(frozen=True, slots=True)
class TccNeedsAttention(Moment):
    """A person should look at a transaction: a participant has failed for long to confirm or to cancel."""

    transaction_id: str
    participant: str
    reason: str
