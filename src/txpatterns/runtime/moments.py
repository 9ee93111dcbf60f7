"""What background parts tell of themselves, and of how much waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from txpatterns.hooks import Moment
from txpatterns.transport import Depth

RELAY, CONSUMER = "relay", "consumer"


@dataclass(frozen=True, slots=True)
class Idle(Moment):
    """A background part found nothing to do: tests wait for it."""

    part: str


@dataclass(frozen=True, slots=True)
class BrokerAway(Moment):
    """A background part pauses, because the broker cannot be reached."""

    part: str
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Ownership(Moment):
    """This process now owns so many buckets of a scope."""

    scope: str
    buckets: int


@dataclass(frozen=True, slots=True)
class Depths:
    """How much waits in an App's database. A number is not counted beyond 100,000."""

    depth: int
    """Committed messages that are not yet published."""
    oldest_age: timedelta
    """The age of the oldest message that waits anywhere: to be published, for its key, for its next attempt.

    Zero when none waits. What is scheduled is as old as it is late; a dead letter does not wait.
    """
    scheduled: int
    """Messages that wait for their time or for their key."""
    waiting: int
    """Received messages that wait for their next attempt, or for their key."""
    dead: int
    """Dead letters."""
    sagas: int = 0
    """Sagas that have not ended: those that run, wait, are being undone, or need a person."""
    tcc: int = 0
    """TCC transactions that have not ended: those that try, and those that are being confirmed or cancelled."""


@dataclass(frozen=True, slots=True)
class DepthsSeen(Moment):
    """How much waits now; told every 15 seconds while an App runs.

    The database is asked only when a listener wants this.
    """

    depths: Depths | None
    """None while the database is away."""


@dataclass(frozen=True, slots=True)
class QueuesSeen(Moment):
    """How much waits at the broker for this App's handlers; told every 15 seconds while they run.

    The broker is asked only when a listener wants this, and only one that can tell.
    """

    depths: tuple[Depth, ...] | None
    """None while the broker is away."""
