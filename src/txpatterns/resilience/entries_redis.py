"""Entries in Redis, which all processes share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from txpatterns.clock import Clock
from txpatterns.hooks import HookList, Hooks
from txpatterns.resilience.entries import NOTHING, Entry
from txpatterns.resilience.questions import Question
from txpatterns.resilience.redis_scripts import RedisScripts

T = TypeVar("T")

_READ = "return redis.call('HMGET', KEYS[1], 'data', 'version', 'floor')"
_PUT = """
local version = tonumber(ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'version', 'floor')
if version < tonumber(known[2] or 0) or version < tonumber(known[1] or version) then
    return 0
end
redis.call('HSET', KEYS[1], 'data', ARGV[1], 'version', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_WROTE = """
for n, key in ipairs(KEYS) do
    local floor = tonumber(ARGV[n])
    local known = redis.call('HMGET', key, 'version', 'floor')
    if floor > tonumber(known[2] or 0) then
        redis.call('HSET', key, 'floor', ARGV[n])
    end
    if known[1] and tonumber(known[1]) < floor then
        redis.call('HDEL', key, 'data', 'version')
    end
    redis.call('PEXPIRE', key, ARGV[#KEYS + 1])
end
"""
_DROP = "return redis.call('HDEL', KEYS[1], 'data', 'version')"

_MOST_OWED = 10_000
_AT_ONCE = 100


class RedisEntries(RedisScripts):
    """Entries in one Redis, for all processes: ``Cache(..., entries=RedisEntries("redis://..."))``.

    While Redis is away nothing is known, and everything is loaded from where it comes from. What was written
    meanwhile is told to it before it is asked for anything again, so that it gives no older value to anybody else. One
    object serves all threads and event loops; leave it (``with``, ``async with``) to close its connections.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta = timedelta(milliseconds=250),
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        super().__init__(url, timeout=timeout, clock=clock, hooks=hooks)
        self._lock = threading.Lock()
        self._owed: OrderedDict[str, tuple[int, timedelta]] = OrderedDict()
        """Versions that were written while Redis was away."""

    def reading(self, key: str) -> Question[Entry]:
        """Give what is known under a key."""
        return self._in_turn(self.ask(_READ, [_named(key)], (), _entry, lambda: NOTHING))

    def putting(self, key: str, data: bytes, version: int, ttl: timedelta) -> Question[None]:
        """Keep a value, unless a newer one is known to be."""
        given: Any = (data, str(version), _milliseconds(ttl))
        return self._in_turn(self.ask(_PUT, [_named(key)], given, _nothing, _nothing))

    def writing(self, key: str, floor: int, ttl: timedelta) -> Question[None]:
        """Keep that a version was written."""
        return self._in_turn(self._telling({key: (floor, ttl)}))

    def dropping(self, key: str) -> Question[None]:
        """Forget the value under a key."""
        return self._in_turn(self.ask(_DROP, [_named(key)], (), _nothing, _nothing))

    def _telling(self, written: dict[str, tuple[int, timedelta]]) -> Question[None]:
        longest = max(ttl for _, ttl in written.values())
        given = (*(str(floor) for floor, _ in written.values()), _milliseconds(longest))
        return self.ask(_WROTE, [*map(_named, written)], given, _nothing, partial(self._owe, written))

    def _in_turn(self, question: Question[T]) -> Question[T]:
        """Tell what is owed first, if Redis may be there."""
        while self._owed:
            with self._lock:
                owed = dict(self._owed.popitem(last=False) for _ in range(min(_AT_ONCE, len(self._owed))))
            if owed:
                question = _Both(self._telling(owed), question, partial(self._owe, owed))
        return question

    def _owe(self, written: dict[str, tuple[int, timedelta]]) -> None:
        with self._lock:
            for key, (floor, ttl) in written.items():
                known = self._owed.get(key, (floor, ttl))
                self._owed[key] = (max(floor, known[0]), max(ttl, known[1]))
            while len(self._owed) > _MOST_OWED:
                self._owed.popitem(last=False)


class _Both(Question[T]):
    """Two questions, one after the other; the second one's answer. Who is stopped at the first has not asked it."""

    def __init__(self, first: Question[None], second: Question[T], stopped: Callable[[], None]) -> None:
        self._first = first
        self._second = second
        self._stopped = stopped

    def plain(self) -> T:
        try:
            self._first.plain()
        except BaseException:
            self._stopped()
            raise
        return self._second.plain()

    async def awaited(self) -> T:
        try:
            await self._first.awaited()
        except BaseException:
            self._stopped()
            raise
        return await self._second.awaited()


def _named(key: str) -> str:
    return f"txp:cache:{key}"


def _milliseconds(time: timedelta) -> str:
    return str(max(1, time // timedelta(milliseconds=1)))


def _entry(found: Any) -> Entry:
    data, version, floor = found
    return Entry(data, int(version or 0), int(floor or 0))


def _nothing(*_: object) -> None:
    return None
