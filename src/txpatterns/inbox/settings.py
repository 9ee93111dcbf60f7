"""How a consumer works, and which combinations it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

from txpatterns.checks import INSTANT, LEAST_LEASE, check_at_least
from txpatterns.errors import UnsafeSettings
from txpatterns.inbox.handlers import Handler
from txpatterns.retries import FailurePolicies, check_kind

_USUAL_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a consumer works.

    ``concurrency`` is how many handlers run at a time, at most the connections that your pool may open; left out it
    is 16 or the ``pool_size``, whichever is less. On SQLite it is always 1. ``max_in_flight`` messages and
    ``max_bytes`` of payload are taken from the broker ahead of the handlers. ``retention`` is how long a handled
    message is remembered, and ``redelivery_horizon`` how old a message may be that the broker still gives out.
    ``handler_timeout`` is how long a handler may take, unless it is registered with a time of its own; None: as long
    as it likes. An ``async def`` that takes longer is cancelled, which is a failed attempt; a ``def`` cannot be
    interrupted and is named in the log and by ``health()``. PostgreSQL ends a transaction of either that does nothing
    for ten seconds longer, which is a failed attempt as well.
    ``retry_interval`` is how often the database is asked for due retries, five times as seldom while wake-ups are known
    to arrive; those that it knows of come in time. ``takeover`` is how long an attempt that was claimed may wait for
    a connection, and so the least time after which one whose process died is made again;
    ``lease_ttl`` how soon a process that died is noticed; ``stop_within`` how long running handlers may go on after
    ``stop``.
    """

    policies: FailurePolicies = field(default_factory=FailurePolicies)
    concurrency: int | None = None
    max_in_flight: int = 1000
    max_bytes: int = 64 * 1024 * 1024
    retention: timedelta = timedelta(days=14)
    redelivery_horizon: timedelta = timedelta(days=7)
    handler_timeout: timedelta | None = timedelta(minutes=5)
    retry_interval: timedelta = timedelta(milliseconds=500)
    takeover: timedelta = timedelta(seconds=10)
    lease_ttl: timedelta = timedelta(seconds=15)
    stop_within: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        check_kind(FailurePolicies, self.policies)
        check_at_least(1, self, "concurrency", "max_in_flight", "max_bytes")
        check_at_least(INSTANT, self, "retention", "handler_timeout", "retry_interval", "takeover")
        check_at_least(timedelta(0), self, "redelivery_horizon", "stop_within")
        check_at_least(LEAST_LEASE, self, "lease_ttl")


def check_window(settings: ConsumerSettings, handlers: Iterable[Handler]) -> None:
    """Refuse a memory shorter than the time within which a message can come again.

    Raises:
        UnsafeSettings: a message could come after its row was removed, and have its effect twice.
    """
    policies = settings.policies
    ladders = [policy.ladder for policy in (policies.default, *policies.topics.values())]
    ladders += [ladder for handler in handlers for ladder in handler.rules.ladders.values()]
    needed = settings.redelivery_horizon + max(ladder.total for ladder in ladders)
    if settings.retention < needed:
        raise UnsafeSettings(
            f"Handled messages are remembered for {settings.retention}, but can come again within {needed}.",
            fix=f"Set retention to at least {needed}, or a shorter redelivery_horizon if the broker keeps less.",
        )


def concurrency_for(settings: ConsumerSettings, *, is_sqlite: bool, engines: Iterable[Engine]) -> int:
    """Say how many handlers may run at a time on these engines.

    Raises:
        UnsafeSettings: more than the pool has connections, so that handlers would wait for each other.
    """
    if is_sqlite:
        return 1
    pools = [engine.pool for engine in engines]
    limited = [pool for pool in pools if isinstance(pool, QueuePool) and pool.size() > 0]
    wanted = settings.concurrency
    if wanted is None:
        # Not the overflow: its connections are closed after each use, and opening one costs more than most handlers.
        return min([_USUAL_CONCURRENCY, *(pool.size() for pool in limited)])
    capacity = min((size for size in map(_capacity, limited) if size is not None), default=wanted)
    if wanted > capacity:
        raise UnsafeSettings(
            f"concurrency is {wanted}, but the connection pool has {capacity} connections.",
            fix=f"Create the engine with pool_size={wanted}, or set concurrency to at most {capacity}.",
        )
    return wanted


def _capacity(pool: QueuePool) -> int | None:
    """Give how many connections a pool may open; None when it has no limit."""
    overflow: int = pool._max_overflow  # noqa: SLF001 - the pool tells its limit in no other way
    return None if overflow < 0 else pool.size() + overflow
