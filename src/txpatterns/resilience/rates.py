"""How many calls there may be in a time: pure decisions.

A bucket is kept as one number, the moment at which it will be full again. What is left in it, and when there will be
enough, follows from that; whether it is looked at often or seldom makes no difference.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta

from txpatterns.checks import INSTANT, check_at_least
from txpatterns.errors import ConfigurationError, RateLimited

_NOW = timedelta(0)
_ONE = timedelta(microseconds=1)
ROUNDING = 0.5
"""Microseconds by which sums of parts of them may be off."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket of ``burst`` tokens, filled up by ``calls`` of them ``per`` time."""

    calls: int
    per: timedelta
    burst: int
    interval: float = field(init=False, repr=False, compare=False)
    """Microseconds until there is another token."""
    most: float = field(init=False, repr=False, compare=False)
    """Microseconds until an empty bucket is full."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "calls", "burst")
        check_at_least(INSTANT, self, "per")
        object.__setattr__(self, "interval", self.per / _ONE / self.calls)
        object.__setattr__(self, "most", self.burst * self.interval)

    def check(self, cost: int) -> None:
        """Refuse what the fullest bucket has not. Raises ConfigurationError."""
        if not 1 <= cost <= self.burst:
            raise ConfigurationError(
                f"A call that costs {cost} would never be made, for the bucket holds {self.burst}.",
                fix="Let it cost less, or give the limit a larger burst.",
            )

    def admit(self, missing: float, cost: int) -> float | None:
        """Take tokens out of a bucket that is full in ``missing`` microseconds; gives what is missing then.

        None: it has not that many.
        """
        wanted = min(max(missing, 0.0), self.most) + cost * self.interval
        return None if wanted > self.most + ROUNDING else wanted

    def left(self, missing: float) -> int:
        """Say how many tokens are in a bucket."""
        return max(0, math.floor((self.most - missing + ROUNDING) / self.interval))

    def until(self, missing: float, cost: int) -> timedelta:
        """Say how long until there are enough tokens in a bucket."""
        return max(_NOW, math.ceil(missing + cost * self.interval - self.most) * _ONE)


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether a call may be made, and how the bucket stands behind that."""

    name: str
    rate: Rate
    is_allowed: bool
    remaining: int
    """How many calls there may be now."""
    reset_after: timedelta
    """How long until the bucket is full again."""
    retry_after: timedelta
    """How long until this call may be made; nothing, if it may."""

    @classmethod
    def of(cls, name: str, rate: Rate, missing: float, cost: int, *, is_allowed: bool) -> Taken:
        """Tell of a bucket that is full in so many microseconds."""
        retry_after = _NOW if is_allowed else rate.until(missing, cost)
        return cls(name, rate, is_allowed, rate.left(missing), math.ceil(missing) * _ONE, retry_after)

    def check(self) -> None:
        """Go on if the call may be made.

        Raises:
            RateLimited: it may not.
        """
        if not self.is_allowed:
            raise RateLimited(self.name, after=self.retry_after)

    def headers(self) -> dict[str, str]:
        """Give the headers of the answer, and for one that is refused ``Retry-After``; all times are in seconds.

        ``RateLimit`` and ``RateLimit-Policy`` are those of the IETF's draft since 2024: the bucket's size, and how long
        an empty one takes to be full. The three others are its earlier ones, which more clients know.
        """
        name, full_in = _quoted(self.name), _seconds(self.reset_after)
        headers = {
            "RateLimit": f"{name};r={self.remaining};t={full_in}",
            "RateLimit-Policy": f"{name};q={self.rate.burst};w={math.ceil(self.rate.most / 1e6)}",
            "RateLimit-Limit": str(self.rate.burst),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(full_in),
        }
        if not self.is_allowed:
            headers["Retry-After"] = str(max(1, _seconds(self.retry_after)))
        return headers


def _quoted(name: str) -> str:
    """Write a name as a string of HTTP's structured fields, which has no other characters."""
    shown = re.sub(r"[^ -~]", "?", name)
    return '"' + re.sub(r'([\\"])', r"\\\1", shown) + '"'


def _seconds(time: timedelta) -> int:
    return math.ceil(time / timedelta(seconds=1))
