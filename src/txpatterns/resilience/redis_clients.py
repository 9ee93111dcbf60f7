"""Connections to Redis, for threads and for each event loop, that give up soon."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from txpatterns.errors import MissingExtra

try:
    import redis
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as missing:
    raise MissingExtra("redis is not installed.", fix="pip install 'txpatterns[resilience]'") from missing

_CONNECTIONS = 16
_TURNS = 4
"""How many time-outs of others somebody waits for a connection."""

AWAY = (redis.RedisError, OSError, TimeoutError)
"""What is raised when Redis is not there, or does not do what it is asked for."""


class RedisClients:
    """Clients of one Redis, made when they are needed: one for all threads, and one for each event loop."""

    def __init__(self, url: str, timeout: timedelta) -> None:
        self._url = url
        seconds = timeout.total_seconds()
        # A crowd shares a few connections: to open one for each of them takes longer than all their questions.
        self._options: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
        self._options |= {"timeout": _TURNS * seconds, "max_connections": _CONNECTIONS}
        self._lock = threading.Lock()
        self._plain: redis.Redis | None = None
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()

    def plain(self) -> redis.Redis:
        """Give the client for threads."""
        with self._lock:
            if self._plain is None:
                options = self._options | {"retry": Retry(NoBackoff(), 0)}
                self._plain = redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(self._url, **options))
            return self._plain

    def here(self) -> redis.asyncio.Redis:
        """Give the client for the event loop that runs."""
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._of_loops.get(loop)
            if found is None:
                options = self._options | {"retry": AsyncRetry(NoBackoff(), 0)}
                pool = redis.asyncio.BlockingConnectionPool.from_url(self._url, **options)
                self._of_loops[loop] = found = redis.asyncio.Redis.from_pool(pool)
            return found

    def close(self) -> None:
        """Close the connections of threads."""
        with self._lock:
            client, self._plain = self._plain, None
        if client is not None:
            client.close()

    async def close_here(self) -> None:
        """Close the connections of this event loop."""
        with self._lock:
            client = self._of_loops.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
