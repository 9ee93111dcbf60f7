"""The connections to Redis, each looked at when it is made: what server that is, and that it evicts nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from txpatterns.errors import MissingExtra, UnsafeSettings
from txpatterns.tcc.stock.redis.scripts import Script

try:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
except ModuleNotFoundError as missing:
    raise MissingExtra("redis is not installed.", fix="pip install 'txpatterns[redis]'") from missing

Call = tuple[Script, Sequence[str], Sequence[str]]
"""A script, its keys and its arguments."""

_OF_THE_SERVER = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN")
"""What a server says that takes no writes now."""
_DEFAULTS: Mapping[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}


class Connections:
    """Runs scripts in a Redis that is given as a URL, or as a client that nobody else uses.

    ``server`` is the run id of the server that was connected to last: it changes whenever that was started anew, or is
    another one.
    """

    def __init__(self, redis: str | Redis, options: Mapping[str, Any]) -> None:
        self.server = ""
        self._ours = isinstance(redis, str)
        if isinstance(redis, str):
            retry = Retry(NoBackoff(), 1)  # a connection that was closed while it rested
            redis = Redis.from_url(redis, **{**_DEFAULTS, "retry": retry, **options})
        self.client: Redis = redis
        pool = self.client.connection_pool
        self._found: Any = pool.connection_kwargs.get("redis_connect_func")
        pool.connection_kwargs["redis_connect_func"] = self._connected

    async def run(self, calls: Sequence[Call]) -> list[list[Any]]:
        """Run scripts, one after the other and in one journey. A script that the server does not know is sent to it.

        Raises:
            RedisError: one of them failed, or nobody knows how far it went.
            UnsafeSettings: this Redis may evict what is stored.
        """
        answers = await self._evaluate(calls)
        unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            pipeline = self.client.pipeline(transaction=False)
            for script in {calls[n][0] for n in unknown}:
                pipeline.script_load(script.text)
            await pipeline.execute()
            for n, answer in zip(unknown, await self._evaluate([calls[n] for n in unknown]), strict=True):
                answers[n] = answer
        for answer in answers:
            if isinstance(answer, ReadOnlyError):
                await self.client.connection_pool.disconnect(inuse_connections=False)  # it was a primary once
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def read_state(self, key: str) -> Sequence[str | None]:
        """Give generation, readiness, server and number of a stock."""
        found: Any = self.client.hmget(key, ["generation", "ready", "server", "number"])
        return [None if value is None else text(value) for value in await found]

    async def take_turn(self, key: str, token: str, milliseconds: int) -> bool:
        """Say whether nobody else has this turn; then it is ours for so long."""
        return bool(await self.client.set(key, token, nx=True, px=milliseconds))

    async def close(self) -> None:
        """Close the connections of a client that was made here."""
        self.client.connection_pool.connection_kwargs["redis_connect_func"] = self._found
        if self._ours:
            await self.client.aclose()

    async def _evaluate(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for script, keys, arguments in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        return list(await pipeline.execute(raise_on_error=False))

    async def _connected(self, connection: AbstractConnection) -> None:
        try:
            if self._found is None:
                await connection.on_connect()
            else:
                await self._found(connection)
            await connection.send_command("INFO")
            info = text(await connection.read_response())
            policy = _of(info, "maxmemory_policy")
            if policy != "noeviction":
                raise UnsafeSettings(
                    f"Redis may evict reservations: maxmemory-policy is {policy or 'not told'}.",
                    fix="Give stock a Redis of its own, with: maxmemory-policy noeviction.",
                )
        except BaseException:
            await connection.disconnect()
            raise
        self.server = _of(info, "run_id")


def is_broken_off(error: BaseException) -> bool:
    """Whether a script has failed at what is stored, perhaps behind its first change."""
    told = str(error)
    return isinstance(error, ResponseError) and "user_script" in told and not any(s in told for s in _OF_THE_SERVER)


def text(value: object) -> str:
    """Give a text that a client returns as text or as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _of(info: str, name: str) -> str:
    found = re.search(rf"^{name}:(\S+)", info, re.MULTILINE)
    return found[1] if found else ""


__all__ = ["Connections", "Redis", "RedisError", "is_broken_off", "text"]
