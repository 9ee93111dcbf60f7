"""Calls to others that may be away, slow or overloaded: what stands in front of them, each part usable alone.

A part is loaded when its name is asked for. `CircuitBreaker`, `SharedBreakers`, `Retrying`, `RedisBuckets` and
`RedisEntries` need libraries of the extra ``resilience``; the others need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txpatterns.resilience.breaker import CircuitBreaker, State
    from txpatterns.resilience.bulkhead import Bulkhead
    from txpatterns.resilience.cache import Cache
    from txpatterns.resilience.entries import MemoryEntries
    from txpatterns.resilience.entries_redis import RedisEntries
    from txpatterns.resilience.limits import MemoryBuckets, RateLimit
    from txpatterns.resilience.limits_redis import RedisBuckets
    from txpatterns.resilience.outages import is_outage
    from txpatterns.resilience.rates import Taken
    from txpatterns.resilience.retrying import Retrying
    from txpatterns.resilience.shared import SharedBreakers

__all__ = [
    "Bulkhead",
    "Cache",
    "CircuitBreaker",
    "MemoryBuckets",
    "MemoryEntries",
    "RateLimit",
    "RedisBuckets",
    "RedisEntries",
    "Retrying",
    "SharedBreakers",
    "State",
    "Taken",
    "is_outage",
]

_MODULES = {
    "Bulkhead": "bulkhead",
    "Cache": "cache",
    "CircuitBreaker": "breaker",
    "MemoryBuckets": "limits",
    "MemoryEntries": "entries",
    "RateLimit": "limits",
    "RedisBuckets": "limits_redis",
    "RedisEntries": "entries_redis",
    "Retrying": "retrying",
    "SharedBreakers": "shared",
    "State": "breaker",
    "Taken": "rates",
    "is_outage": "outages",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
