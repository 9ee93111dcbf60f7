"""Errors of calls to others that were not made."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from txpatterns.errors.base import TxPatternsError


class NotBegun(TxPatternsError):
    """A call was not made at all, so it is made later, and that counts for no attempt."""

    code = "TXP-1605"

    spread: ClassVar[float] = 0.0
    """By how much of ``after`` those that come again are spread, so that they do not come all at once."""

    def __init__(self, message: str | None = None, *, after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.after = after


class CircuitOpen(NotBegun):
    """The circuit is open: whoever is called has failed too often just now, and was not asked.

    ``name`` is the breaker's, and ``retry_at`` the moment from which one call is let through.
    """

    code = "TXP-1801"
    fix = "Do without it, or try again at retry_at; a saga and an inbox handler do that by themselves."
    spread = 0.25

    def __init__(self, name: str, *, retry_at: datetime, after: timedelta) -> None:
        super().__init__(f"{name} is taken to be away until {retry_at.isoformat(timespec='seconds')}.", after=after)
        self.name = name
        self.retry_at = retry_at


class BulkheadFull(NotBegun):
    """As many calls as may run at the same time do run, and none of them ended in time."""

    code = "TXP-1802"
    fix = "Try again later, let more of them run at once (at_once=), or let callers wait longer (wait=)."
    spread = 0.25

    def __init__(self, name: str, at_once: int, *, after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(f"{name}: {at_once} calls run already.", after=after)
        self.name = name


class RateLimited(NotBegun):
    """There were more calls under this key than may be.

    ``after`` is how long until the next one may be.
    """

    code = "TXP-1803"
    fix = "Try again after that time: answer 429 with the headers of the result."
    spread = 0.25

    def __init__(self, name: str, *, after: timedelta) -> None:
        super().__init__(
            f"{name}: there may be another call in {after / timedelta(seconds=1):.3g} seconds.", after=after
        )
        self.name = name
