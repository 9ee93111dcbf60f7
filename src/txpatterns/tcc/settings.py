"""How TCC transactions are recovered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from txpatterns.checks import INSTANT, LEAST_LEASE, check_at_least
from txpatterns.retries import RetryLadder


@dataclass(frozen=True, slots=True)
class TccSettings:
    """How a coordinator brings transactions to their end.

    ``timeout`` is how long a transaction may try that says nothing else. ``concurrency`` is how many transactions are
    confirmed or cancelled at a time; on SQLite it is always 1. ``poll_interval`` is how often the database is asked for
    due transactions, five times as seldom while wake-ups are known to arrive. ``lease_ttl`` is how soon a process that
    died is noticed. ``ladder`` are the waits between the attempts to confirm or to cancel: when it is used up a person
    is told, and the last wait is taken again and again. ``call_timeout`` is how long a participant outside may take.
    ``keep_ended`` is how long a transaction that has ended is kept; after that its id is free again.
    ``stop_within`` is how long what runs may go on after ``stop``.
    """

    timeout: timedelta = timedelta(minutes=15)
    concurrency: int = 16
    poll_interval: timedelta = timedelta(milliseconds=500)
    lease_ttl: timedelta = timedelta(seconds=15)
    ladder: RetryLadder = field(default_factory=RetryLadder)
    call_timeout: timedelta = timedelta(seconds=30)
    keep_ended: timedelta = timedelta(days=30)
    stop_within: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        check_at_least(1, self, "concurrency")
        check_at_least(INSTANT, self, "timeout", "poll_interval", "call_timeout", "keep_ended")
        check_at_least(timedelta(0), self, "stop_within")
        check_at_least(LEAST_LEASE, self, "lease_ttl")
