"""Two relays and two consumers on real servers, while processes are paused and killed and servers restart."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka import Consumer as KafkaConsumer
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from rig.process import Child
from rig.servers.kafka import Kafka
from rig.servers.postgres import Database as PostgresDatabase
from rig.servers.postgres import Postgres
from txpatterns import App

KEYS = 1000
PARTITIONS = 6
APPLICATION = Path(__file__).parent / "application.py"
PATIENCE = timedelta(minutes=10)


@dataclass
class Story:
    """What happened in a run, for the evidence."""

    messages: int
    faults: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def topic(own_kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with own_kafka.topics() as topics:
        name = topics.create("counted", partitions=PARTITIONS)
        monkeypatch.setenv("TOPIC", name)
        yield name


@pytest.fixture
def own_database(own_postgres: Postgres) -> Iterator[PostgresDatabase]:
    with own_postgres.database() as database:
        yield database


@pytest.mark.server
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(20_000, id="20k"),
        pytest.param(200_000, id="200k", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_nothing_is_lost_doubled_or_inverted(
    messages: int,
    own_postgres: Postgres,
    own_kafka: Kafka,
    own_database: PostgresDatabase,
    topic: str,
    child: Callable[..., Child],
) -> None:
    """P1, P2, P3, P7; H7, H15, H18, H20, H22, H35, H51, H56, H59, H65, H66, I1-I5, I15, I18.

    Invariant: what was committed is handled once and in order per key, whatever process or server stops.
    """
    from endtoend import application

    url, bootstrap = own_database.url("asyncpg"), own_kafka.bootstrap
    app = application.make_app(url, f"kafka://{bootstrap}")
    await _create_tables(app, application.Base.metadata)
    environment = {"DATABASE": url, "BROKER": f"kafka://{bootstrap}", "TOPIC": topic}

    def start(role: str) -> Child:
        process = child(APPLICATION, role, environment=environment)
        process.wait_for(f"{role} begins")
        return process

    story = Story(messages)
    began = time.monotonic()
    children = {name: start(name.split()[0]) for name in ("relay 1", "relay 2", "consume 1", "consume 2")}
    writer = asyncio.create_task(_write(app, application, messages))
    nemesis = asyncio.create_task(_nemesis(children, start, own_postgres, own_kafka, story, app))
    await writer
    written = time.monotonic()
    await nemesis
    healed = time.monotonic()
    await _until(lambda: _effects(app), messages, children)
    story.figures |= {
        "writing_seconds": round(written - began, 1),
        "seconds_to_drain_after_the_last_fault": round(time.monotonic() - healed, 1),
    }
    await _check(app, story, bootstrap, topic)
    for process in children.values():
        process.sigterm()
    assert {process.wait(within=timedelta(seconds=60)) for process in children.values()} == {0}
    await app.close()
    _keep_evidence(story, own_postgres, own_kafka)


async def _create_tables(app: App, metadata: sa.MetaData) -> None:
    from txpatterns.database.setup import create_missing

    await app.database.transact(create_missing)
    await app.database.transact(metadata.create_all)


async def _write(app: App, application: Any, messages: int) -> None:
    """Commit messages in small transactions; a lost connection is answered by looking whether it was committed."""
    per_transaction = 20
    numbers: Counter[str] = Counter()
    for start in range(0, messages, per_transaction):
        batch = []
        for n in range(start, min(start + per_transaction, messages)):
            name = f"key-{n % KEYS}"
            numbers[name] += 1
            batch.append((name, numbers[name]))
        while not await _commit(app, application, batch):  # noqa: ASYNC110 - a server is away; there is no event
            await asyncio.sleep(0.2)


async def _commit(app: App, application: Any, batch: list[tuple[str, int]]) -> bool:
    try:
        async with AsyncSession(app.database.engine) as session, session.begin():
            for name, number in batch:
                message_id = app.outbox.add(session, application.Counted(name=name, number=number))
                session.add(application.Ledger(message_id=message_id, key=name, number=number))
    except (DBAPIError, OSError):
        return await _was_committed(app, application, batch)
    return True


async def _was_committed(app: App, application: Any, batch: list[tuple[str, int]]) -> bool:
    name, number = batch[0]
    ledger = application.Ledger
    while True:
        try:
            async with AsyncSession(app.database.engine) as session:
                query = sa.select(ledger).where(ledger.key == name, ledger.number == number)
                return (await session.scalars(query)).first() is not None
        except (DBAPIError, OSError):
            await asyncio.sleep(0.2)


async def _nemesis(
    children: dict[str, Child],
    start: Callable[[str], Child],
    postgres: Postgres,
    kafka: Kafka,
    story: Story,
    app: App,
) -> None:
    """One fault after the other, each when a share of the effects is there: so each falls into running work."""
    share = story.messages // 8

    async def reached(part: int) -> None:
        await _until(lambda: _effects(app), share * part, children)

    await reached(1)
    children["relay 1"].stop()
    story.faults["relay paused beyond its lease"] += 1
    await _until(lambda: _owners(app), 1, children, exactly=True)
    children["relay 1"].cont()
    await reached(2)
    children["consume 1"].kill9()
    children["consume 1"] = start("consume")
    story.faults["consumer killed"] += 1
    await reached(3)
    children["relay 2"].kill9()
    children["relay 2"] = start("relay")
    story.faults["relay killed"] += 1
    await reached(4)
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(postgres.start)
    story.faults["PostgreSQL killed and started"] += 1
    await reached(5)
    await asyncio.to_thread(kafka.kill)
    await asyncio.to_thread(kafka.start)
    story.faults["Kafka killed and started"] += 1
    await reached(6)
    children["consume 2"].stop()
    await asyncio.sleep(application_lease().total_seconds())
    children["consume 2"].cont()
    story.faults["consumer paused"] += 1


def application_lease() -> timedelta:
    from endtoend import application

    return application.LEASE


async def _effects(app: App) -> int:
    return int(await app.database.read(lambda c: c.execute(sa.text("SELECT count(*) FROM effect")).scalar_one()))


async def _owners(app: App) -> int:
    query = "SELECT count(DISTINCT owner) FROM txp_lease WHERE scope = 'outbox' AND owner IS NOT NULL"
    return int(await app.database.read(lambda c: c.execute(sa.text(query)).scalar_one()))


async def _until(
    figure: Callable[[], Awaitable[int]], wanted: int, children: dict[str, Child], *, exactly: bool = False
) -> None:
    """Wait until a figure in the database is reached, with the children's last words when it is not."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    found = -1
    while time.monotonic() < deadline:
        try:
            found = await figure()
        except (DBAPIError, OSError):
            found = -1
        if found == wanted or (not exactly and found >= wanted):
            return
        await asyncio.sleep(0.1)
    said = "\n".join(f"--- {name}\n" + "\n".join(process.lines[-20:]) for name, process in children.items())
    raise AssertionError(f"{found} of {wanted} within {PATIENCE}\n{said}")


async def _check(app: App, story: Story, bootstrap: str, topic: str) -> None:
    def rows(connection: sa.Connection, statement: str) -> list[Any]:
        return list(connection.execute(sa.text(statement)).all())

    ledger = await app.database.read(lambda c: rows(c, "SELECT message_id, key, number FROM ledger"))
    effects = await app.database.read(lambda c: rows(c, "SELECT message_id, key, number FROM effect ORDER BY id"))
    dead = await app.database.read(lambda c: rows(c, "SELECT message_id, reason, error FROM txp_dead_letter"))
    wire = await asyncio.to_thread(_wire, bootstrap, topic)
    committed = {row.message_id for row in ledger}
    published = [message_id for message_id, _, _ in wire]
    story.figures |= {
        "committed": len(committed),
        "lost": len(committed - {row.message_id for row in effects}),
        "phantoms": len({row.message_id for row in effects} - committed),
        "effects_twice": len(effects) - len({row.message_id for row in effects}),
        "inversions_of_first_effects": _inversions((row.key, row.number) for row in effects),
        "inversions_of_first_publications": _inversions(_first(wire)),
        "duplicates_on_the_wire": len(published) - len(set(published)),
        "published_but_not_committed": len(set(published) - committed),
        "bodies_that_differ": _differing(wire),
        "dead_letters": len(dead),
        "faults": dict(story.faults),
    }
    print("end to end:", json.dumps(story.figures))
    wanted = {
        "committed": story.messages,
        **dict.fromkeys(
            (
                "lost",
                "phantoms",
                "effects_twice",
                "inversions_of_first_effects",
                "inversions_of_first_publications",
                "published_but_not_committed",
                "bodies_that_differ",
                "dead_letters",
            ),
            0,
        ),
    }
    assert {name: story.figures[name] for name in wanted} == wanted


def _wire(bootstrap: str, topic: str) -> list[tuple[str, str, bytes]]:
    """Read the whole topic, partition by partition: message id, key and body of each record."""
    reader = KafkaConsumer({"bootstrap.servers": bootstrap, "group.id": "observer", "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)])
    found, ended = [], set()
    while len(ended) < PARTITIONS:
        for record in reader.consume(5000, 1.0):
            if record.error() is not None:
                ended.add(record.partition())
            else:
                headers = dict(record.headers() or [])
                found.append((headers["message-id"].decode(), (record.key() or b"").decode(), record.value()))
    reader.close()
    return found


def _first(wire: list[tuple[str, str, bytes]]) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for message_id, key, body in wire:
        if message_id not in seen:
            seen.add(message_id)
            yield key, json.loads(body)["payload"]["number"]


def _inversions(order: Any) -> int:
    highest: dict[str, int] = {}
    count = 0
    for key, number in order:
        count += number < highest.get(key, 0)
        highest[key] = max(number, highest.get(key, 0))
    return count


def _differing(wire: list[tuple[str, str, bytes]]) -> int:
    bodies: dict[str, bytes] = {}
    return sum(bodies.setdefault(message_id, body) != body for message_id, _, body in wire)


def _keep_evidence(story: Story, postgres: Postgres, kafka: Kafka) -> None:
    folder = os.environ.get("TXP_EVIDENCE")
    if folder is None:
        return
    path = Path(folder) / f"end-to-end-{story.messages}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"servers": [str(postgres), str(kafka)], "when": time.strftime("%Y-%m-%d"), **story.figures}
    path.write_text(json.dumps(said, indent=1) + "\n")
