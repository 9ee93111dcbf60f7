"""How fast ids are made: one at a time, many at once, by four threads; beside a loop without a lock, and a peer."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.harness import Case, Run, Table, compare
from txpatterns import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import SnowflakeGenerator, WorkerNumbers
from txpatterns.ids.layout import EPOCH_MILLISECONDS

COUNT = 200_000
AT_ONCE = 100
THREADS = 4
LIMIT = 4_096_000


class Lockless:
    """The same counting with neither a lock nor a mark, as most generators have it: for one thread, and one process."""

    def __init__(self) -> None:
        self._last, self._worker = 0, 7 << 12

    def next_id(self) -> int:
        tick = (time.time_ns() // 1_000_000 - EPOCH_MILLISECONDS) << 12
        if tick <= self._last:
            tick = self._last + 1
        self._last = tick
        return (tick >> 12) << 22 | self._worker | tick & 4095


class Locked(Lockless):
    """The same with a lock around it, as it is usually made safe."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def next_id(self) -> int:
        with self._lock:
            return super().next_id()


async def generators(rounds: int) -> Table:
    """Ids a second."""
    from snowflake import SnowflakeGenerator as Peer

    lockless, locked, peer = Lockless(), Locked(), Peer(7)
    bare, usual, limit = (
        "counting, without lock or mark",
        "the same in a lock",
        "4,096 ids a millisecond, the layout's end",
    )
    async with _ours() as ids:
        cases = [
            Case(bare, _one(lockless.next_id)),
            Case(usual, _one(locked.next_id), bare),
            Case("snowflake-id: the same, and None when a millisecond is full", _one(peer.__next__), bare),
            Case("next_id", _one(ids.next_id), bare, 0.6, also={usual: 1.2}),
            Case(limit, _constant(LIMIT)),
            Case(f"take, {AT_ONCE} at once", _many(ids), limit, 0.98),
            Case(f"the usual lock, {THREADS} threads", _threads(locked.next_id)),
            Case(f"next_id, {THREADS} threads", _threads(ids.next_id), f"the usual lock, {THREADS} threads", 1.0),
        ]
        return await compare("Making 64-bit ids", "ids/s", cases, rounds)


@asynccontextmanager
async def _ours() -> AsyncIterator[SnowflakeGenerator]:
    with tempfile.TemporaryDirectory() as folder:
        async with Database(f"sqlite+aiosqlite:///{Path(folder) / 'ids.db'}") as database:
            await database.transact(create_missing)
            with WorkerNumbers(database) as numbers:
                yield SnowflakeGenerator(numbers)


def _one(make: Callable[[], int | None]) -> Run:
    def work() -> None:
        for _ in range(COUNT):
            make()

    return _timed(lambda: asyncio.to_thread(work), COUNT)


def _many(ids: SnowflakeGenerator) -> Run:
    async def work() -> None:
        for _ in range(10 * COUNT // AT_ONCE):
            while True:
                try:
                    ids.take(AT_ONCE)
                    break
                except IdsUnavailable:  # further ahead than the mark: the layout's end has been reached
                    await asyncio.sleep(0.001)

    return _timed(work, 10 * COUNT)


def _threads(make: Callable[[], int]) -> Run:
    def work() -> None:
        for _ in range(COUNT // THREADS):
            make()

    async def all_() -> None:
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(THREADS)))

    return _timed(all_, COUNT)


def _timed(work: Callable[[], Awaitable[object]], count: int) -> Run:
    async def run() -> float:
        started = time.perf_counter()
        await work()
        return count / (time.perf_counter() - started)

    return run


def _constant(figure: float) -> Run:
    async def run() -> float:
        return figure

    return run
