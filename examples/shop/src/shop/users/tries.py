"""How often somebody may try to sign in: before any password is looked at, and whether or not there is an account."""

from __future__ import annotations

import math
from datetime import timedelta

from shop.problems import Problem
from txpatterns.resilience import MemoryBuckets, RateLimit

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Tries:
    """Counts tries in this process: from one place at one account, from one place, and at one account altogether.

    The last is the loosest: it stops those who try from many places, and whoever fills it on purpose keeps the owner
    from signing in anew for a while, but ends no session.
    """

    def __init__(self, buckets: MemoryBuckets | None = None) -> None:
        kept = buckets or MemoryBuckets()
        self._pair = RateLimit("account from a place", calls=10, per=MINUTE, buckets=kept)
        self._place = RateLimit("place", calls=60, per=MINUTE, buckets=kept)
        self._account = RateLimit("account", calls=200, per=HOUR, buckets=kept)

    async def count(self, email: str, place: str) -> None:
        """Count a try.

        Raises:
            Problem: ``too-many-tries``, with the seconds until the next one in ``retry_after``.
        """
        for limit, key in ((self._pair, f"{email} {place}"), (self._place, place), (self._account, email)):
            taken = await limit.atake(key)
            if not taken.is_allowed:
                seconds = max(1, math.ceil(taken.retry_after.total_seconds()))
                raise Problem("too-many-tries", f"Too many tries. The next one in {seconds} s.", retry_after=seconds)
