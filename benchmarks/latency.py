"""From the start of COMMIT to the publish call, with default settings, beside a bare relay that NOTIFY wakes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.harness import Case, Table, compare
from txpatterns import App, Event
from txpatterns.database.setup import create_missing
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Capabilities, Outcome

COMMITS = 150
PAUSE = 0.01


class Ticked(Event, topic="ticks", type="tick", key="name"):
    name: str


class Stopwatch:
    """A broker that notes when it was called for each message."""

    capabilities = Capabilities(ordered_prefix=True)

    def __init__(self) -> None:
        self.called: dict[str, float] = {}
        self.news = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        now = time.perf_counter()
        self.called.update((message.id, now) for message in messages)
        self.news.set()
        yield dict.fromkeys((message.id for message in messages), CONFIRMED)

    async def __aenter__(self) -> Stopwatch:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.called.clear()


async def commit_to_publish(url: str, rounds: int) -> tuple[Table, Table]:
    """Milliseconds, median and 99th percentile, at about a hundred commits a second."""
    figures: dict[str, list[float]] = {"bare": [], "one process": [], "two processes": []}

    async def bare() -> float:
        return _keep(figures["bare"], await _bare(url))

    async def same() -> float:
        return _keep(figures["one process"], await _ours(url, apart=False))

    async def apart() -> float:
        return _keep(figures["two processes"], await _ours(url, apart=True))

    base = "bare relay, NOTIFY after commit"
    # A ratio above 1 is slower here, so the goals are upper bounds.
    cases = [
        Case(base, bare),
        Case("txpatterns, writer and relay in one process", same, base, 1.4),
        Case("txpatterns, writer apart from the relay (NOTIFY)", apart, base, 1.4),
    ]
    medians = await compare("Commit to publish, median", "ms", cases, rounds)
    tails = iter(figures.values())

    def tail(case: Case) -> Case:
        values = iter(next(tails))

        async def run() -> float:
            return next(values)

        return Case(case.name, run, case.base, None if case.base is None else 1.5)

    return medians, await compare("Commit to publish, 99th percentile", "ms", [tail(case) for case in cases], rounds)


def _keep(tails: list[float], latencies: list[float]) -> float:
    milliseconds = sorted(1000 * latency for latency in latencies)
    tails.append(milliseconds[int(len(milliseconds) * 0.99)])
    return statistics.median(milliseconds)


async def _ours(url: str, *, apart: bool) -> list[float]:
    address = sa.make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    broker = Stopwatch()
    app = App("ticking", address, broker)  # type: ignore[arg-type]
    writer = App("writing", address, broker) if apart else app  # type: ignore[arg-type]
    await app.database.transact(create_missing)
    commits: list[float] = []
    sa.event.listen(writer.database.engine.sync_engine, "commit", lambda _: commits.append(time.perf_counter()))
    async with app.running(consume=False):
        await app.drained()
        committed: dict[str, float] = {}
        for number in range(COMMITS):
            async with AsyncSession(writer.database.engine) as session:
                message_id = writer.outbox.add(session, Ticked(name=str(number)))
                await session.commit()
                committed[message_id] = commits[-1]
            await asyncio.sleep(PAUSE)
        await app.drained()
        latencies = [broker.called[message_id] - at for message_id, at in committed.items()]
    if apart:
        await writer.close()
    return latencies


async def _bare(url: str) -> list[float]:
    reader, writer, notifier = [await asyncpg.connect(url) for _ in range(3)]
    await reader.execute("CREATE TABLE IF NOT EXISTS bare (position bigserial PRIMARY KEY, body bytea)")
    called: dict[int, float] = {}
    woken = asyncio.Event()
    await notifier.add_listener("bare", lambda *_: woken.set())
    ending = False

    async def relay() -> None:
        while not ending:
            await woken.wait()
            woken.clear()
            rows = await reader.fetch("SELECT * FROM bare ORDER BY position LIMIT 500")
            called.update((row["position"], time.perf_counter()) for row in rows)
            await reader.execute("DELETE FROM bare WHERE position = ANY($1)", [row["position"] for row in rows])

    relaying = asyncio.create_task(relay())
    waker = await asyncpg.connect(url)
    committed: dict[int, float] = {}
    for _ in range(COMMITS):
        started = await _insert(writer, committed)
        await waker.execute("NOTIFY bare")
        await asyncio.sleep(max(PAUSE - (time.perf_counter() - started), 0))
    await _settled(lambda: _count(writer))
    ending = True
    woken.set()
    await relaying
    for connection in (reader, writer, notifier, waker):
        await connection.close()
    return [called[position] - at for position, at in committed.items()]


async def _insert(writer: asyncpg.Connection, committed: dict[int, float]) -> float:
    transaction = writer.transaction()
    await transaction.start()
    position = await writer.fetchval("INSERT INTO bare (body) VALUES ($1) RETURNING position", b"x" * 479)
    started = committed[position] = time.perf_counter()
    await transaction.commit()
    return started


async def _count(connection: asyncpg.Connection) -> Any:
    return await connection.fetchval("SELECT count(*) FROM bare")


async def _settled(count: Callable[[], Awaitable[Any]]) -> None:
    while await count():
        await asyncio.sleep(0.01)
