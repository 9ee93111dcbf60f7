"""Worker numbers in Redis, for who has no database at hand: ``pip install 'txpatterns[redis]'``. Off by default."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import IdsUnavailable, MissingExtra, WorkersExhausted
from txpatterns.ids.layout import EPOCH, EPOCH_MILLISECONDS
from txpatterns.ids.marks import LEASE, MOST_OFF, WINDOW, Grant, agreed, ending
from txpatterns.ids.worker_store import RESERVED, Renewal

try:
    from redis.asyncio import Redis
except ImportError as missing:
    raise MissingExtra("redis is not installed.", fix="pip install 'txpatterns[redis]'") from missing

_MILLISECOND = timedelta(milliseconds=1)
_LEASE, _WINDOW = LEASE // _MILLISECOND, WINDOW // _MILLISECOND
_AHEAD = _WINDOW + MOST_OFF // _MILLISECOND
"""Further ahead of the server's clock than any id can be that was ever made, by whatever the server has forgotten."""
_AGAIN = 0.25

_TIME = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) - {EPOCH_MILLISECONDS}
local function row(worker)
  local found = redis.call('HGET', KEYS[1], worker)
  return found and cjson.decode(found)
end
local function keep(worker, owner, token, mark, until_)
  local text = cjson.encode({{owner = owner, token = token, mark = mark, until_ = until_}})
  redis.call('HSET', KEYS[1], worker, text)
end
local function is_ours(found, owner, tokens)
  if not found or found.owner ~= owner then return false end
  for _, token in ipairs(tokens) do
    if found.token == token then return true end
  end
  return false
end
"""
_TAKE = f"""{_TIME}
local best, mark
for worker = 0, {RESERVED - 1} do
  local found = row(worker)
  if not found then
    best, mark = worker, 0
    break
  end
  if found.until_ <= now and (not best or found.mark < mark) then best, mark = worker, found.mark end
end
if not best then return {{-1, 0}} end
local above = math.max(mark, now + {_AHEAD})
keep(best, ARGV[1], ARGV[2], above, now + {_LEASE})
return {{best, above}}
"""
_RENEW = f"""{_TIME}
local found = row(ARGV[4])
if not is_ours(found, ARGV[1], cjson.decode(ARGV[3])) then return {{-1, now}} end
local mark = math.max(found.mark, now + {_WINDOW})
keep(ARGV[4], ARGV[1], ARGV[2], mark, now + {_LEASE})
return {{mark, now}}
"""
_RELEASE = f"""{_TIME}
for worker = 0, {RESERVED - 1} do
  local found = row(worker)
  if is_ours(found, ARGV[1], cjson.decode(ARGV[3])) then keep(worker, ARGV[1], found.token, found.mark, now) end
end
return 0
"""


class RedisWorkers:
    """A store of worker numbers in a Redis server: ``WorkerNumbers(RedisWorkers("redis://..."))``.

    Redis may forget: a replica that takes over lacks the last writes, and no ``WAIT`` proves that it has them. So
    nothing here rests on what it remembers. Who takes a number begins further ahead of the server's clock than any id
    can be, and makes its first one when the clock has come near, after about two seconds. What that needs is that the
    clocks of the servers agree within a second.

    What it cannot do: while two servers both take writes, each for some of the clients, two processes may have one
    number and repeat each other's ids. Where that must not happen, keep the numbers in a database.

    ``prefix`` stands before the one key. All who share ids need the same server and prefix.
    """

    def __init__(self, url: str, *, prefix: str = "txp", clock: Clock | None = None) -> None:
        self._url = url
        self._prefix = prefix
        self._key = f"{prefix}:id-workers"
        self._clock = clock or SystemClock()
        self._redis: Redis = Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)

    async def take(self, owner: str, tokens: Sequence[str], token: str) -> Grant:
        """See `WorkerStore`. Gives a number when its first ids can be made."""
        await self._look_at_the_clock()
        await self.release(owner, tokens)
        worker, above = await self._run(_TAKE, owner, token)
        if worker < 0:
            raise WorkersExhausted
        mark, drawn = above, [*tokens, token]
        while mark <= above:
            await asyncio.sleep(_AGAIN)
            renewal = await self.renew(worker, owner, drawn, token)
            if renewal is None:
                raise IdsUnavailable(f"The server has forgotten that worker number {worker} was taken.")
            mark = renewal.mark
        return Grant(worker, above, ending(mark))

    async def renew(self, worker: int, owner: str, tokens: Sequence[str], token: str) -> Renewal | None:
        """See `WorkerStore`."""
        await self._look_at_the_clock()
        mark, now = await self._run(_RENEW, owner, token, tokens, str(worker))
        return None if mark < 0 else Renewal(ending(mark), now)

    async def release(self, owner: str, tokens: Sequence[str]) -> None:
        """See `WorkerStore`."""
        if tokens:
            await self._run(_RELEASE, owner, "", tokens)

    def beside(self) -> Self:
        """See `WorkerStore`."""
        return type(self)(self._url, prefix=self._prefix, clock=self._clock)

    async def close(self) -> None:
        """See `WorkerStore`."""
        await self._redis.aclose()

    async def _look_at_the_clock(self) -> None:
        before = self._clock.now()
        seconds, microseconds = await self._redis.time()
        told = EPOCH + timedelta(milliseconds=seconds * 1000 - EPOCH_MILLISECONDS, microseconds=microseconds)
        agreed(before, told, self._clock.now())

    async def _run(self, script: str, owner: str, token: str, tokens: Sequence[str] = (), *more: str) -> Any:
        words = [owner, token, json.dumps(list(tokens)), *more]
        answer: Any = await self._redis.eval(script, 1, self._key, *words)
        return answer
