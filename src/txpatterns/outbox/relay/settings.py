"""How a relay works: the settings that a user may give it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from txpatterns.checks import INSTANT, LEAST_LEASE, check_at_least


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works. The defaults suit most; durations are upper bounds.

    ``batch`` messages, or ``max_bytes`` of their payloads, go out together; ``read_ahead`` of them, or
    ``read_ahead_bytes``, are kept in memory. ``lease`` is how long a silent relay keeps its buckets. ``poll`` is
    the longest wait between two looks at the table, and five times that while wake-ups are known to arrive, which come
    sooner. ``keep_sent`` keeps published messages in ``txp_outbox_sent`` for that long, and on PostgreSQL up to an hour
    longer, or a day if it is more than two days. How long a publication may take is the broker's setting.
    """

    batch: int = 500
    max_bytes: int = 8_000_000
    read_ahead: int = 2000
    read_ahead_bytes: int = 64_000_000
    poll: timedelta = timedelta(milliseconds=500)
    lease: timedelta = timedelta(seconds=15)
    keep_sent: timedelta | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch", "max_bytes", "read_ahead", "read_ahead_bytes")
        check_at_least(INSTANT, self, "poll", "keep_sent")
        check_at_least(LEAST_LEASE, self, "lease")
