"""Stock in Redis, in front of a ledger: ``pip install 'txpatterns[redis]'``."""

from __future__ import annotations

from txpatterns.tcc.stock.redis.stock import RedisStock

__all__ = ["RedisStock"]
