"""From the start of COMMIT to the publish call, with default settings, beside a bare relay that NOTIFY wakes."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer

from benchmarks.harness import Case, Table, compare
from txpatterns import App, Event
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.engines import sync_side
from txpatterns.database.setup import create_missing
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Capabilities, Outcome

WARM_UP = 10
"""So many commits are published before the first that counts, so that all connections are open."""

COMMITS = 150
PAUSE = 0.01
Ways = Callable[[], Awaitable[list[float]]]


class Ticked(Event):
    name: str


class Stopwatch(MemoryBroker):
    """A broker that notes when it was called for each message, and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = Capabilities(ordered_prefix=True)
        self.called: dict[str, float] = {}
        self.news = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        now = time.perf_counter()
        self.called.update((message.id, now) for message in messages)
        self.news.set()
        yield dict.fromkeys((message.id for message in messages), CONFIRMED)


class Reader:
    """A consumer that polls all the time, in a thread, and notes when each message came."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.seen: dict[str, float] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"reader-{time.time_ns()}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 10,
            }
        )
        self._consumer.subscribe([topic])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        while not self._ending.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                now, headers = time.perf_counter(), dict(message.headers() or [])
                name = next((value for key, value in headers.items() if key.endswith("message-id")), None)
                self.seen[name.decode() if isinstance(name, bytes) else ""] = now
        self._consumer.close()

    async def has(self, message_ids: Iterable[str]) -> None:
        async with asyncio.timeout(30):
            while not set(message_ids) <= self.seen.keys():
                await asyncio.sleep(0.01)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()


async def commit_to_publish(url: str, rounds: int) -> tuple[Table, Table]:
    """Milliseconds, median and 99th percentile, at about a hundred commits a second."""
    base = "the limit: NOTIFY after commit, fetch"
    return await _both(
        "Commit to publish",
        base,
        {
            base: lambda: _bare(url, _take_notice),
            "txpatterns, writer and relay in one process": lambda: _ours(url, apart=False),
            "txpatterns, writer apart from the relay (NOTIFY)": lambda: _ours(url, apart=True),
        },
        (2.0, 3.0),
        rounds,
    )


async def commit_to_consumer(url: str, bootstrap: str, topic: str, rounds: int) -> tuple[Table, Table]:
    """The same as far as a Kafka consumer that polls."""
    base = "bare relay: NOTIFY after commit, fetch, produce and flush"
    with Reader(bootstrap, topic) as reader:
        return await _both(
            "Commit to consumer, through Kafka",
            base,
            {
                base: lambda: _bare_to_kafka(url, bootstrap, topic, reader),
                "txpatterns, writer apart from the relay (NOTIFY)": lambda: _ours_to_kafka(
                    url, bootstrap, topic, reader
                ),
            },
            (1.4, 1.5),
            rounds,
        )


async def _both(
    title: str, base: str, ways: Mapping[str, Ways], goals: tuple[float, float], rounds: int
) -> tuple[Table, Table]:
    """Run each way once a round, and make a table of the medians and one of the tails out of it."""
    tails: dict[str, list[float]] = {name: [] for name in ways}

    def median(name: str) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            milliseconds = sorted(1000 * latency for latency in await ways[name]())
            tails[name].append(milliseconds[int(len(milliseconds) * 0.99)])
            return statistics.median(milliseconds)

        return run

    def tail(name: str) -> Callable[[], Awaitable[float]]:
        found = iter(tails[name])

        async def run() -> float:
            return next(found)

        return run

    # The base is the first; a ratio above 1 is slower.
    def cases(of: Callable[[str], Callable[[], Awaitable[float]]], goal: float) -> list[Case]:
        return [Case(name, of(name), *((base, goal) if name != base else ())) for name in ways]

    medians = await compare(f"{title}, median", "ms", cases(median, goals[0]), rounds, lower_is_better=True)
    highest = await compare(f"{title}, 99th percentile", "ms", cases(tail, goals[1]), rounds, lower_is_better=True)
    medians.notes.append(f"From the start of COMMIT; {COMMITS} commits a round, {1 / PAUSE:.0f} a second at most.")
    return medians, highest


async def _ours(url: str, *, apart: bool) -> list[float]:
    broker = Stopwatch()
    committed = await _commit_with(url, broker, "ticks", apart=apart)
    return [broker.called[message_id] - at for message_id, at in committed.items()]


async def _ours_to_kafka(url: str, bootstrap: str, topic: str, reader: Reader) -> list[float]:
    reader.seen.clear()
    committed = await _commit_with(url, f"kafka://{bootstrap}", topic, apart=True)
    await reader.has(committed)
    return [reader.seen[message_id] - at for message_id, at in committed.items()]


async def _commit_with(url: str, broker: Any, topic: str, *, apart: bool) -> dict[str, float]:
    """Commit messages while a relay runs; gives when each COMMIT began, by message id."""

    class Tick(Ticked, topic=topic, type="tick", key="name"):
        pass

    address = sa.make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    app = App("ticking", address, broker)
    writer = App("writing", address, broker) if apart else app
    await app.database.transact(create_missing)
    commits: list[float] = []
    sa.event.listen(sync_side(writer.database.engine), "commit", lambda _: commits.append(time.perf_counter()))
    committed: dict[str, float] = {}
    async with app.running(consume=False):
        await app.drained()
        for number in range(WARM_UP + COMMITS):
            async with writer.session() as session:
                message_id = writer.outbox.add(session, Tick(name=str(number)))
                await session.commit()
            if number >= WARM_UP:
                committed[message_id] = commits[-1]
            elif number == WARM_UP - 1:
                await app.drained()
            await asyncio.sleep(PAUSE)
        await app.drained()
    if apart:
        await writer.close()
    return committed


async def _bare_to_kafka(url: str, bootstrap: str, topic: str, reader: Reader) -> list[float]:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 0})
    reader.seen.clear()

    async def produce(rows: Sequence[Any], _called: dict[int, float]) -> None:
        for row in rows:
            producer.produce(topic, row["body"], headers={"message-id": str(row["position"])})
        await asyncio.to_thread(producer.flush)

    committed: dict[int, float] = {}
    await _bare(url, produce, committed)
    await reader.has([str(position) for position in committed])
    return [reader.seen[str(position)] - at for position, at in committed.items()]


async def _take_notice(rows: Sequence[Any], called: dict[int, float]) -> None:
    called.update((row["position"], time.perf_counter()) for row in rows)


async def _bare(url: str, publish: Any, committed: dict[int, float] | None = None) -> list[float]:
    reader, writer, notifier, waker = [await asyncpg.connect(url) for _ in range(4)]
    await reader.execute("CREATE TABLE IF NOT EXISTS bare (position bigserial PRIMARY KEY, body bytea)")
    called: dict[int, float] = {}
    committed = {} if committed is None else committed
    woken, ending = asyncio.Event(), False
    await notifier.add_listener("bare", lambda *_: woken.set())

    async def relay() -> None:
        while not ending:
            await woken.wait()
            woken.clear()
            rows = await reader.fetch("SELECT * FROM bare ORDER BY position LIMIT 500")
            await publish(rows, called)
            await reader.execute("DELETE FROM bare WHERE position = ANY($1)", [row["position"] for row in rows])

    relaying = asyncio.create_task(relay())
    for number in range(WARM_UP + COMMITS):
        await _insert(writer, committed)
        await waker.execute("NOTIFY bare")
        if number == WARM_UP - 1:
            await _settled(lambda: _count(writer))
            committed.clear()
        await asyncio.sleep(PAUSE)
    await _settled(lambda: _count(writer))
    ending = True
    woken.set()
    await relaying
    for connection in (reader, writer, notifier, waker):
        await connection.close()
    return [called[position] - at for position, at in committed.items() if position in called]


async def _insert(writer: asyncpg.Connection, committed: dict[int, float]) -> None:
    transaction = writer.transaction()
    await transaction.start()
    position = await writer.fetchval("INSERT INTO bare (body) VALUES ($1) RETURNING position", b"x" * 479)
    committed[position] = time.perf_counter()
    await transaction.commit()


async def _count(connection: asyncpg.Connection) -> Any:
    return await connection.fetchval("SELECT count(*) FROM bare")


async def _settled(count: Callable[[], Awaitable[Any]]) -> None:
    while await count():
        await asyncio.sleep(0.01)
