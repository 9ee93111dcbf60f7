"""How sagas are run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from txpatterns.checks import INSTANT, LEAST_LEASE, check_at_least


@dataclass(frozen=True, slots=True)
class SagaSettings:
    """How an engine runs sagas.

    ``concurrency`` is how many steps run at a time, at most; on SQLite it is always 1. ``at_once`` sagas are owned at
    a time, and those that only wait are not among them. ``poll_interval`` is how often the database is asked for due
    sagas, five times as seldom while wake-ups are known to arrive. ``lease_ttl`` is how soon a process that died is
    noticed; after ``poisoned_after`` owners that died with one saga, without any progress between, nobody takes it any
    more before a person has looked. ``keep_ended`` is how long a saga that has ended is kept; after that its
    id is free again. ``keep_signals`` is how long an event is kept for sagas that will wait for it.
    For ``timeout_grace`` after the start no wait for an event is given up, where events may lie at a broker that came
    while nobody ran.
    A person is told of a saga whose journal has ``long_journal`` rows, and at ``longest_journal`` it does not go on.
    ``build`` is what a deploy is called, a commit's hash for example: a saga that stood still with one goes on with
    another, also where only code has changed that the saga does not name.
    ``stop_within`` is how long running steps may go on after ``stop``.
    """

    concurrency: int = 16
    at_once: int = 256
    poll_interval: timedelta = timedelta(milliseconds=500)
    lease_ttl: timedelta = timedelta(seconds=15)
    poisoned_after: int = 3
    keep_ended: timedelta = timedelta(days=30)
    keep_signals: timedelta = timedelta(days=7)
    timeout_grace: timedelta = timedelta(seconds=30)
    long_journal: int = 1_000
    longest_journal: int = 10_000
    build: str = ""
    stop_within: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        check_at_least(1, self, "concurrency", "at_once", "poisoned_after", "long_journal")
        check_at_least(self.long_journal, self, "longest_journal")
        check_at_least(INSTANT, self, "poll_interval", "keep_signals", "keep_ended")
        check_at_least(timedelta(0), self, "stop_within", "timeout_grace")
        check_at_least(LEAST_LEASE, self, "lease_ttl")
