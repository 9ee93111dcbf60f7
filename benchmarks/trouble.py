"""A fault holds up itself alone: how messages flow beside a topic, or a key of their own topic, that is in trouble.

Messages are written at a steady rate, some way below the highest at which the relay empties the table while it is
written to; a few of them are for what will be in trouble. What is counted is all the others.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa

from benchmarks.harness import Case, Sample, Table, compare
from benchmarks.servers import Topics
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.hooks import Hooks, on
from txpatterns.messages import Message, bucket_of
from txpatterns.outbox import Relay
from txpatterns.outbox.moments import Published
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Publisher, Verdict

SECONDS = 8.0
LOAD = 0.6
"""The part of the highest rate at which messages are written."""
PROBE, PROBES = 20_000, 3
"""So many messages are written as fast as may be to learn that rate, so many times."""
TICK, AT_MOST = 0.01, 500
"""Seconds from one commit to the next, and messages in one."""
KEYS, BAD_KEY, PAYLOAD = 977, "bad", b"x" * 479
BAD_TOPIC_IN, BAD_KEY_IN = 10, 100
"""One message in so many is of the topic, or of the key, that will be in trouble."""
DEADLINE = timedelta(seconds=2)
"""So long a publication takes that gets no answer."""
PATIENCE = 30.0
"""Seconds after the last commit; what is not confirmed by then has waited at least so long."""
GOAL = 0.8
BASE = "nothing is in trouble"
TOPIC, KEY = "topic", "key"

COLUMNS = ("message_id", "topic", "type", "key", "bucket", "payload", "headers", "content_type", "occurred_at")
Opening = Callable[[], AbstractAsyncContextManager[Publisher]]
TABLES = "txp_outbox, txp_outbox_waiting, txp_dead_letter"

CASES: dict[str, tuple[str, Outcome | None]] = {
    "a topic takes nothing (POSTPONED)": (TOPIC, Outcome(Verdict.POSTPONED, ConnectionError("no queue is bound"))),
    f"a topic gets no answer within {DEADLINE.seconds} s": (TOPIC, None),
    "a topic is refused (REJECTED), and goes to the dead letters": (TOPIC, Outcome(Verdict.REJECTED)),
    "a topic gets the answer UNKNOWN": (TOPIC, Outcome(Verdict.UNKNOWN)),
    f"one key of their own topic gets no answer within {DEADLINE.seconds} s": (KEY, None),
}


@dataclass(frozen=True, slots=True)
class Names:
    """The topic that is measured, and the one beside it."""

    good: str
    other: str


HERE = Names("orders", "mails")
"""With a broker of our own."""


class Troubled:
    """Confirms at once; of what is in trouble it says what it is told to say, or nothing until the deadline."""

    def __init__(self, trouble: str = "", outcome: Outcome | None = None, *, ordered: bool) -> None:
        self.capabilities = Capabilities(ordered_prefix=ordered, deadline=DEADLINE)
        self.over = asyncio.Event()
        self.asked = 0
        """How many messages came that were in trouble."""
        self._trouble, self._outcome = trouble, outcome

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        good: list[str] = []
        bad: list[str] = []
        for message in messages:
            (bad if self._is_bad(message) else good).append(message.id)
        self.asked += len(bad)
        if good:
            yield dict.fromkeys(good, CONFIRMED)
        if bad and self._outcome is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE.total_seconds()):
                    await self.over.wait()
        if bad:
            yield dict.fromkeys(bad, self._outcome or Outcome(Verdict.UNKNOWN))

    def close(self) -> None:
        """Answer what hangs, so that the relay can stop; raises when nothing was in trouble that should have been."""
        self.over.set()
        if self._trouble and not self.asked:
            raise RuntimeError(f"no {self._trouble} was in trouble")

    def _is_bad(self, message: Message) -> bool:
        if self._trouble == KEY:
            return message.key == BAD_KEY
        return self._trouble == TOPIC and message.topic == HERE.other


class Watch(Hooks):
    """Notes when messages of one topic were confirmed that are not of the key in trouble."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.at: dict[str, float] = {}

    @on(Published)
    def published(self, moment: Published) -> None:
        now, topic = time.perf_counter(), self.topic
        self.at.update((each.id, now) for each in moment.messages if each.topic == topic and each.key != BAD_KEY)


class Writer:
    """Commits messages at a rate, and knows when each COMMIT began. One of each hundred is of the key in trouble."""

    def __init__(self, connection: asyncpg.Connection, relay: Relay, names: Names) -> None:
        self.connection, self.relay, self.names = connection, relay, names
        self.committed: dict[str, float] = {}
        """Of those that are measured, by message id."""
        self._written = 0
        self._keys = [_with_bucket(f"key-{n}") for n in range(KEYS)]
        self._bad = _with_bucket(BAD_KEY)

    async def write(self, number: int, *, good: bool = False) -> None:
        """Commit so many at once: all of them ``good``, or some of what may be in trouble."""
        now, records, measured = datetime.now(UTC), list[tuple[Any, ...]](), list[str]()
        for n in range(self._written, self._written + number):
            topic, (key, bucket), message_id = self.names.good, self._keys[n % KEYS], f"message-{n}"
            if not good and n % BAD_TOPIC_IN == 0:
                topic, (key, bucket) = self.names.other, _with_bucket(f"mail-{n}")
            elif not good and n % BAD_KEY_IN == 1:
                key, bucket = self._bad
            else:
                measured.append(message_id)
            records.append((message_id, topic, "order.placed", key, bucket, PAYLOAD, "{}", "application/json", now))
        self._written += number
        transaction = self.connection.transaction()
        await transaction.start()
        await self.connection.copy_records_to_table("txp_outbox", records=records, columns=COLUMNS)
        self.committed.update(dict.fromkeys(measured, time.perf_counter()))
        await transaction.commit()
        self.relay.wake()

    async def write_steadily(self, rate: float, seconds: float) -> None:
        """Commit whatever is due, a hundred times a second, until the time is over."""
        started, written, total = time.perf_counter(), 0, round(rate * seconds)
        while written < total:
            due = min(round(rate * (time.perf_counter() - started)), total) - written
            for size in _parts(due):
                await self.write(size)
            written += due
            await asyncio.sleep(TICK)

    async def write_at_once(self, number: int) -> None:
        for size in _parts(number):
            await self.write(size)


def _with_bucket(key: str) -> tuple[str, int]:
    return key, bucket_of(key)


def _parts(number: int) -> list[int]:
    return [min(AT_MOST, number - start) for start in range(0, number, AT_MOST)]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the messages that are measured. One that was not confirmed has waited until the run ended."""

    confirmed: int
    seconds: float
    latencies: list[float]


class Course:
    """Runs of a relay on one database, each from an empty table on."""

    def __init__(self, url: str, names: Names) -> None:
        self.database = Database(sa.make_url(url).set(drivername="postgresql+asyncpg"))
        self.names = names
        self._url = url

    async def highest_rate(self, opening: Opening) -> float:
        """Give how many messages of all kinds are published in a second while they are written without a pause."""
        await self.database.transact(create_missing)
        runs = [await self._run(opening, lambda writer: writer.write_at_once(PROBE)) for _ in range(PROBES)]
        return statistics.median(PROBE / run.seconds for run in runs)

    async def sample(self, opening: Opening, rate: float) -> Sample:
        """Give how many of those that are measured were confirmed in a second, and how long after their commit."""
        run = await self._run(opening, lambda writer: writer.write_steadily(rate, SECONDS))
        milliseconds = sorted(1000 * latency for latency in run.latencies)
        return Sample(
            run.confirmed / run.seconds,
            {"p50 ms": statistics.median(milliseconds), "p99 ms": milliseconds[int(len(milliseconds) * 0.99)]},
        )

    async def _run(self, opening: Opening, write: Callable[[Writer], Awaitable[None]]) -> Run:
        connection, watch = await asyncpg.connect(self._url), Watch(self.names.good)
        await connection.execute(f"TRUNCATE {TABLES}")
        async with opening() as broker:
            relay = Relay(self.database, broker, hooks=watch)
            running = asyncio.create_task(relay.run())
            writer = Writer(connection, relay, self.names)
            await writer.write(KEYS, good=True)  # so that connections are open and the broker knows the topic
            await relay.drained()
            writer.committed.clear()
            started = time.perf_counter()
            await write(writer)
            written = time.perf_counter()
            while len(watch.at) < KEYS + len(writer.committed) and time.perf_counter() < written + PATIENCE:
                await asyncio.sleep(TICK)
            ended = time.perf_counter()
            relay.stop()
            if isinstance(broker, Troubled):
                broker.close()
            await running
        await connection.close()
        ends = {message_id: watch.at.get(message_id, ended) for message_id in writer.committed}
        latencies = [ends[message_id] - at for message_id, at in writer.committed.items()]
        return Run(len(ends.keys() & watch.at.keys()), max(ends.values()) - started, latencies)


async def beside(url: str, rounds: int, *, ordered: bool) -> Table:
    """Beside each kind of trouble, with a broker that answers at once."""

    def opening(trouble: str = "", outcome: Outcome | None = None) -> Opening:
        return lambda: nullcontext(Troubled(trouble, outcome, ordered=ordered))

    openings = {BASE: opening(), **{name: opening(*trouble) for name, trouble in CASES.items()}}
    course = Course(url, HERE)
    rate = LOAD * await course.highest_rate(opening())
    cases = [_case(course, name, way, rate) for name, way in openings.items()]
    kind = "a key's messages go out together" if ordered else "a key's messages go out one by one"
    table = await compare(f"Beside trouble, {kind}", "messages/s", cases, rounds)
    table.notes.append(_note(rate) + f" What gets no answer is given up after {DEADLINE.seconds} s.")
    await course.database.close()
    return table


async def beside_missing_topic(url: str, topics: Topics, rounds: int) -> Table:
    """Beside a topic that a real Kafka does not have."""
    good, other = topics.create("good", partitions=6), topics.create("other", partitions=6)

    def opening() -> KafkaBroker:
        return KafkaBroker.from_url(f"kafka://{topics.bootstrap}")

    well, missing = Course(url, Names(good, other)), Course(url, Names(good, f"{other}-missing"))
    rate = LOAD * await well.highest_rate(opening)
    cases = [_case(well, BASE, opening, rate), _case(missing, "a topic is missing", opening, rate)]
    table = await compare("Beside trouble, Kafka", "messages/s", cases, rounds)
    table.notes.append(_note(rate))
    await well.database.close()
    await missing.database.close()
    return table


def _case(course: Course, name: str, opening: Opening, rate: float) -> Case:
    base, goal = (None, None) if name == BASE else (BASE, GOAL)
    return Case(name, lambda: course.sample(opening, rate), base, goal)


def _note(rate: float) -> str:
    return (
        f"`python -m benchmarks trouble`. For {SECONDS:.0f} s {rate:,.0f} messages a second are committed, {LOAD:.0%} "
        "of what the relay publishes at most while as much is written in the same process: one of "
        f"{BAD_TOPIC_IN} for the topic beside, each with a key of its own, and one of {BAD_KEY_IN} for the one key. "
        "Figures are those of the others: how many are confirmed in a second, until the last one is, and the time from "
        "the start of COMMIT to the confirmation."
    )
