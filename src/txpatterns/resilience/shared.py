"""Breakers of several processes that tell each other of openings and closings, through Redis, in the background."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from txpatterns.errors import ConfigurationError
from txpatterns.hooks import Moment
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.resilience.redis_clients import AWAY, RedisClients
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

_CHANNEL = "txp:breakers"
_TIMEOUT = timedelta(seconds=1)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
_NOW = timedelta(0)


class SharedBreakers:
    """Tells other processes of openings and closings, and does what they tell: ``with SharedBreakers(url, bank):``.

    Each process decides by itself, by the calls that it makes. What it finds out spares the others finding it out, too:
    a breaker that is closed there opens for the rest of the time, and one that is open closes. Breakers of one name
    belong together. It happens in a thread of its own: no call waits for it, and nothing is asked of Redis for a call.
    While Redis is away each process is on its own; a process that starts, or finds Redis again, catches up.

    Raises:
        ConfigurationError: two of the breakers have one name.
    """

    def __init__(self, url: str, *breakers: CircuitBreaker) -> None:
        self._breakers = {breaker.name: breaker for breaker in breakers}
        if len(self._breakers) < len(breakers):
            raise ConfigurationError("Two breakers have one name.", fix="Make one for each thing that can be away.")
        self._clients = RedisClients(url, _TIMEOUT)
        self._id = uuid4().hex
        self._untold: set[str] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self.is_connected = False
        """Whether what is told arrives now."""

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise ConfigurationError("These breakers are shared already.", fix="Enter it once in a process.")
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._work(started)), name="txpatterns breakers", daemon=True
        )
        self._thread.start()
        started.wait()
        for breaker in self._breakers.values():
            breaker.on_change.append(self._changed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for breaker in self._breakers.values():
            breaker.on_change.remove(self._changed)
        self._call(self._stopping.set)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.__exit__, None, None, None)

    def _changed(self, moment: Moment) -> None:
        """Note what is to be told, from whichever thread."""
        name: str = getattr(moment, "breaker", "")
        self._untold.add(name)
        self._call(self._wake.set)

    def _call(self, function: Any) -> None:
        with suppress(RuntimeError):  # its loop is closed: there is nobody to tell
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    async def _work(self, started: threading.Event) -> None:
        self._loop, self._wake, self._stopping = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        started.set()
        pause = _SHORTEST_PAUSE
        while not self._stopping.is_set():
            try:
                await self._share()
            except AWAY as error:
                level = logging.WARNING if self.is_connected or pause == _SHORTEST_PAUSE else logging.DEBUG
                logger.log(level, "breakers are not shared, Redis is away: %s", error_line(error))
                pause = _SHORTEST_PAUSE if self.is_connected else min(2 * pause, _LONGEST_PAUSE)
            self.is_connected = False
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        await self._clients.close_here()

    async def _share(self) -> None:
        """Tell and hear, until Redis is away or this is to stop."""
        client = self._clients.here()
        async with client.pubsub() as hearing:
            await hearing.subscribe(_CHANNEL)
            for name, breaker in self._breakers.items():
                left: int = await client.pttl(_key(name))
                if left > 0:
                    _open(breaker, timedelta(milliseconds=left))
            # Whatever was found out while nobody could be told.
            self._untold.update(name for name, breaker in self._breakers.items() if breaker.state is not State.CLOSED)
            self._wake.set()
            self.is_connected = True
            await _first_of(self._hear(hearing), self._tell(client), self._stopping.wait())

    async def _tell(self, client: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._untold:
                name = next(iter(self._untold))
                await self._tell_of(client, self._breakers[name])
                self._untold.discard(name)

    async def _tell_of(self, client: Any, breaker: CircuitBreaker) -> None:
        """Tell how a breaker stands now, which may not be what it was noted for."""
        left, state = breaker.retry_in, breaker.state
        message = {"from": self._id, "breaker": breaker.name, "seconds": left.total_seconds()}
        if state is State.OPEN and left > _NOW:
            await client.set(_key(breaker.name), self._id, px=max(1, left // timedelta(milliseconds=1)))
            await client.publish(_CHANNEL, json.dumps(message))
        elif state is State.CLOSED:
            await client.delete(_key(breaker.name))
            await client.publish(_CHANNEL, json.dumps(message | {"seconds": 0}))

    async def _hear(self, hearing: Any) -> None:
        while True:
            message = await hearing.get_message(ignore_subscribe_messages=True, timeout=_TIMEOUT.total_seconds())
            if message is not None:
                self._do(message["data"])

    def _do(self, data: bytes) -> None:
        """Do what another process has told; what is not understood is passed over."""
        try:
            told = json.loads(data)
            sender, breaker = told["from"], self._breakers.get(told["breaker"])
            left = timedelta(seconds=float(told["seconds"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            return
        if breaker is None or sender == self._id:
            return
        if left > _NOW:
            _open(breaker, left)
        else:
            breaker.close()


def _open(breaker: CircuitBreaker, left: timedelta) -> None:
    """Open a breaker that is closed; never for longer than it opens by itself."""
    if breaker.state is State.CLOSED:
        breaker.open(min(left, breaker.open_for))


def _key(name: str) -> str:
    return f"txp:breaker:{name}"


async def _first_of(*works: Awaitable[Any]) -> None:
    """Work until the first of several ends, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    while pending:  # once more: a cancellation that meets a time-out of the client's is lost
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    for task in done:
        task.result()
