"""Limits: so many calls in a time for each key, such as an account or an address, with bursts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from txpatterns.checks import check_at_least
from txpatterns.clock import Clock, SystemClock
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.moments import Limited
from txpatterns.resilience.questions import Known, Question
from txpatterns.resilience.rates import Rate, Taken

_SWEPT = 1024
"""Below so many buckets nobody looks for those that are full again."""
_LOOK_AGAIN = 1e6
"""Microseconds between two such looks, where there is no room: a flood must not make each call look."""


class Buckets(Protocol):
    """Where buckets are kept."""

    def taking(self, name: str, key: str, rate: Rate, cost: int) -> Question[Taken]:
        """Take tokens out of the bucket of a key."""


class RateLimit:
    """At most ``calls`` in ``per`` for each key, and up to ``burst`` of them at once after a pause.

    It is a bucket of tokens: ``burst`` of them (``calls`` if left out), filled up evenly. ``buckets`` says where they
    are: in this process if left out, or in Redis, for all processes together (`RedisBuckets`).

    Raises:
        ConfigurationError: a number that is less than one, or a time that is not more than nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        calls: int,
        per: timedelta,
        burst: int | None = None,
        buckets: Buckets | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self.name = name
        self.rate = Rate(calls, per, calls if burst is None else burst)
        self.hooks = HookList.of(hooks)
        self._buckets = buckets or MemoryBuckets()

    def take(self, key: str, cost: int = 1) -> Taken:
        """Take a call of this key, and say whether it may be made; one that may not takes nothing.

        With buckets in Redis the thread waits for it.

        Raises:
            ConfigurationError: it costs more than there ever is.
        """
        self.rate.check(cost)
        return self._told(self._buckets.taking(self.name, key, self.rate, cost).plain())

    async def atake(self, key: str, cost: int = 1) -> Taken:
        """Do what ``take`` does, in an event loop."""
        self.rate.check(cost)
        return self._told(await self._buckets.taking(self.name, key, self.rate, cost).awaited())

    def _told(self, taken: Taken) -> Taken:
        if not taken.is_allowed:
            self.hooks.tell(Limited(self.name))
        return taken

    def __repr__(self) -> str:
        return f"RateLimit({self.name!r}, {self.rate.calls} per {self.rate.per}, burst {self.rate.burst})"


class MemoryBuckets:
    """Buckets of this process. None that is not full is ever forgotten, so that nobody is let in who should not be.

    Beyond ``most`` of them new keys share one for each limit: a flood of made-up keys neither fills the memory nor
    empties the buckets of others.
    """

    def __init__(self, *, most: int = 100_000, clock: Clock | None = None) -> None:
        self.most = most
        check_at_least(1, self, "most")
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._full_at: dict[tuple[str, str], float] = {}
        self._look_at, self._look_again = _SWEPT, 0.0

    def take(self, name: str, key: str, rate: Rate, cost: int) -> Taken:
        """Take tokens out of the bucket of a key; waits for nobody."""
        bucket = (name, key)
        with self._lock:
            now = self._clock.monotonic() * 1e6
            if bucket not in self._full_at and self._has_too_many(now):
                bucket = (name, "")
            missing = max(self._full_at.get(bucket, now) - now, 0.0)
            wanted = rate.admit(missing, cost)
            if wanted is not None:
                self._full_at[bucket] = now + wanted
        return Taken.of(name, rate, missing if wanted is None else wanted, cost, is_allowed=wanted is not None)

    def taking(self, name: str, key: str, rate: Rate, cost: int) -> Question[Taken]:
        """Do the same, as those do who have to ask for it."""
        return Known(self.take(name, key, rate, cost))

    def _has_too_many(self, now: float) -> bool:
        """Whether there is no room for another one, also when those that are full again were forgotten."""
        is_full = len(self._full_at) >= self.most
        if len(self._full_at) >= self._look_at or (is_full and now >= self._look_again):
            self._full_at = {bucket: full_at for bucket, full_at in self._full_at.items() if full_at > now}
            self._look_at, self._look_again = max(_SWEPT, 2 * len(self._full_at)), now + _LOOK_AGAIN
        return len(self._full_at) >= self.most
