"""What is done each second, so that making ids waits for nobody: in a thread, or by a part of an App that runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, Self, TypeVar

from txpatterns.clock import Clock
from txpatterns.coordination.pace import until_round
from txpatterns.errors import TxPatternsError
from txpatterns.ids.marks import EVERY
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns.ids")

AT_MOST = 5.0
"""Seconds that a call to the store may take, and that the first id waits for what is kept up."""


class Store(Protocol):
    """Where something is kept up."""

    def beside(self) -> Self:
        """Give a store like this one with connections of its own, for another event loop."""

    async def close(self) -> None:
        """Close the connections of a store that ``beside`` has made."""


S = TypeVar("S", bound=Store)
Deed = Callable[[S], Awaitable[None]]


class Upkeep(Generic[S]):
    """Does ``tend`` each second, and ``leave`` at the end, with a store. Neither ends it by failing."""

    def __init__(self, name: str, store: S, clock: Clock, *, tend: Deed[S], leave: Deed[S]) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._tend = tend
        self._leave = leave
        self._thread: _Thread | None = None
        self._part: _Rounds | None = None
        self._lock = threading.Lock()
        self.failure: str | None = None
        """What went wrong the last time, in words."""
        forget_after_fork(self)

    def begin(self, *, wait: bool = True) -> bool:
        """Begin to keep it up in a thread, unless that is done already; says whether it has been tended by that."""
        with self._lock:
            thread = self._thread
            if self._part is not None or (thread is not None and thread.is_alive and thread.tended.is_set()):
                return False
            if thread is None or not thread.is_alive:
                thread = self._thread = _Thread(self._name, self._beside)
        return wait and thread.tended.wait(AT_MOST)

    def hurry(self, *, anew: bool = False) -> None:
        """There is more to tend, and the thread, if there is one, does so now. ``anew``: ``begin`` waits for that."""
        with self._lock:
            if self._thread is not None:
                self._thread.hurry(anew=anew)

    async def open(self) -> None:
        """Tend it once, in this event loop; ``run`` goes on with that."""
        with self._part_of_an_app() as rounds:
            if rounds is not None:
                await self._guarded(self._tend, self._store)

    async def run(self) -> None:
        """Keep it up until ``stop`` is called, in the event loop of the store. A thread that does so goes on."""
        with self._part_of_an_app() as rounds:
            if rounds is not None:
                await self._guarded(self._tend, self._store)
                await self._keep(self._store, rounds)
            elif self._part is not None:
                await self._part.call.wait()

    @contextmanager
    def _part_of_an_app(self) -> Iterator[_Rounds | None]:
        """Let no thread begin within; gives None where one runs, for two must not tend the same."""
        with self._lock:
            before, rounds = self._part, _Rounds()
            self._part = rounds
            in_thread = self._thread is not None and self._thread.is_alive
        try:
            yield None if in_thread else rounds
        finally:
            self._part = before

    def stop(self) -> None:
        """End ``run``."""
        if self._part is not None:
            self._part.stop()

    def close(self) -> None:
        """End the thread, if there is one. It begins again when it is needed."""
        thread = self._thread
        if thread is None:
            return
        if not thread.stop(2 * AT_MOST):
            logger.warning("the thread of %s has not ended", self._name)
        with self._lock:  # only now: until it has ended, no other one may begin
            if self._thread is thread:
                self._thread = None

    def after_fork(self) -> None:
        """In a forked child: nothing runs, and nobody holds the lock."""
        self._lock = threading.Lock()
        self._thread = self._part = self.failure = None

    async def _beside(self, thread: _Thread) -> None:
        store = self._store.beside()
        try:
            await self._guarded(self._tend, store)
            thread.tended.set()
            await self._keep(store, thread.rounds, thread.tended.set)
        finally:
            await store.close()

    async def _keep(self, store: S, rounds: _Rounds, done: Callable[[], None] = lambda: None) -> None:
        try:
            while True:
                await self._next(rounds)
                if rounds.stopped:
                    return
                rounds.call.clear()
                await self._guarded(self._tend, store)
                done()
        finally:
            await self._guarded(self._leave, store)

    async def _next(self, rounds: _Rounds) -> None:
        if self._clock.instant is None:
            await self._clock.wait(rounds.call, EVERY * until_round(self._clock, 1.0))
        else:  # it is moved by hand, perhaps in another thread, and nobody else's time passes
            await rounds.call.wait()

    async def _guarded(self, deed: Deed[S], store: S) -> None:
        try:
            async with asyncio.timeout(AT_MOST):
                await deed(store)
        except Exception as error:  # noqa: BLE001 - whatever a store raises: it is tried again in a second
            told = error.message if isinstance(error, TxPatternsError) else error_line(error)
            if self.failure is None:
                logger.warning("%s cannot be kept up: %s", self._name, told)
            self.failure = told
        else:
            if self.failure is not None:
                logger.warning("%s are kept up again", self._name)
            self.failure = None


class _Rounds:
    """What calls for another round before its time, or for the end."""

    def __init__(self) -> None:
        self.call = asyncio.Event()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self.call.set()


class _Thread:
    """A thread that has begun, with an event loop of its own. A program that ends without stopping it ends."""

    def __init__(self, name: str, work: Callable[[_Thread], Awaitable[None]]) -> None:
        self.rounds = _Rounds()
        self.tended = threading.Event()
        """There is nothing that it has not tended once; or it has ended."""
        self._work = work
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"txpatterns {name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def hurry(self, *, anew: bool) -> None:
        if anew:
            self.tended.clear()
        self._call(self.rounds.call.set)

    def stop(self, within: float) -> bool:
        """End it; says whether it has ended."""
        self._call(self.rounds.stop)
        self._thread.join(within)
        return not self.is_alive

    def _call(self, word: Callable[[], None]) -> None:
        self._ready.wait(AT_MOST)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended by itself
                self._loop.call_soon_threadsafe(word)

    def _run(self) -> None:
        try:
            asyncio.run(self._in_loop())
        except Exception:
            logger.exception("the thread of %s ended", self._thread.name)
        finally:
            self._ready.set()
            self.tended.set()

    async def _in_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._work(self)
