"""What happens to calls that others answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from txpatterns.hooks import Moment


@dataclass(frozen=True, slots=True)
class CircuitChanged(Moment):
    """A breaker is in another state."""

    breaker: str


@dataclass(frozen=True, slots=True)
class CircuitOpened(CircuitChanged):
    """Calls are not made any more, for that long; ``told`` says that a person or another process has said so."""

    open_for: timedelta
    error: BaseException | None = None
    """What the last call raised; none where it was told."""
    told: bool = False


@dataclass(frozen=True, slots=True)
class CircuitHalfOpened(CircuitChanged):
    """One call is let through, to see whether it is answered again."""


@dataclass(frozen=True, slots=True)
class CircuitClosed(CircuitChanged):
    """Calls are made again; ``told`` says that a person or another process has said so."""

    told: bool = False


@dataclass(frozen=True, slots=True)
class CallRefused(Moment):
    """A call was not made, because the circuit is open."""

    breaker: str


@dataclass(frozen=True, slots=True)
class BulkheadWasFull(Moment):
    """A call was not made, because too many were running."""

    bulkhead: str


@dataclass(frozen=True, slots=True)
class CacheHit(Moment):
    """A value was known."""

    cache: str


@dataclass(frozen=True, slots=True)
class CacheMissed(Moment):
    """A value was not known, or not a new enough one, and is loaded."""

    cache: str


@dataclass(frozen=True, slots=True)
class LoadShared(Moment):
    """A value was not known, and somebody was loading it already: two who want the same load it once."""

    cache: str


@dataclass(frozen=True, slots=True)
class Limited(Moment):
    """There were more calls under a key than may be."""

    limit: str
