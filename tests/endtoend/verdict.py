"""What a run has left behind, held against what was committed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition
from confluent_kafka import Consumer as KafkaConsumer

from endtoend.traffic import FUNDS, KEYS, PIECES
from txpatterns import App

PARTITIONS = 6


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic."""

    message_id: str
    key: str
    body: bytes
    produced_at: datetime


@dataclass
class Story:
    """What happened in a run: the faults, each with its time, and figures for the evidence."""

    messages: int
    faults: list[tuple[datetime, str]] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault was seen to have happened."""
    snapshots: list[int] = field(default_factory=list)
    """How much money was missing, each time that it was counted with what was under way."""
    figures: dict[str, Any] = field(default_factory=dict)

    def fault(self, what: str) -> None:
        """Say that a fault begins now."""
        self.faults.append((datetime.now(UTC), what))

    def told(self) -> list[str]:
        """The faults, each with its seconds after the first."""
        return [f"{(when - self.faults[0][0]).total_seconds():.1f} s, {what}" for when, what in self.faults]

    def last_before(self, moment: datetime) -> str:
        """The fault that had happened last."""
        return next((what for when, what in reversed(self.faults) if when <= moment), "no fault yet")


SUMS = """
    SELECT (SELECT sum(balance) FROM account) AS money, sum(available + sold) AS pieces, sum(sold) AS sold,
        sum(CASE WHEN available < 0 OR sold < 0 THEN 1 ELSE 0 END) AS below
    FROM shelf
"""
UNDER_WAY = """
    SELECT (SELECT sum(balance) FROM account)
        + (SELECT coalesce(sum(amount), 0) FROM ledger) - (SELECT coalesce(sum(amount), 0) FROM effect)
"""
"""One statement, so one snapshot: what the buyers have, the sellers have, and what is on its way between them."""


async def judge(app: App, wire: Sequence[Record] | None, story: Story) -> dict[str, int]:
    """Count what must not be: lost, doubled, inverted. Everything is noted in the story, too.

    ``wire`` is what was published, of a broker that keeps it; None: it has none of it any more.
    """

    def rows(connection: sa.Connection, statement: str) -> list[Any]:
        return list(connection.execute(sa.text(statement)).all())

    sums = (await app.database.read(lambda c: rows(c, SUMS)))[0]
    ledger = await app.database.read(lambda c: rows(c, "SELECT message_id, key, number FROM ledger"))
    effects = await app.database.read(lambda c: rows(c, "SELECT message_id, key, number FROM effect ORDER BY id"))
    dead = await app.database.read(lambda c: rows(c, "SELECT message_id FROM txp_dead_letter"))
    committed = {row.message_id for row in ledger}
    handled = {row.message_id for row in effects}
    faults = {
        "not_committed": story.messages - len(committed),
        "lost": len(committed - handled),
        "phantoms": len(handled - committed),
        "effects_twice": len(effects) - len(handled),
        "inversions_of_first_effects": inversions((row.key, row.number) for row in effects),
        "dead_letters": len(dead),
        "money_missing": KEYS * FUNDS - int(sums.money),
        "pieces_missing": KEYS * PIECES - int(sums.pieces),
        "sold_but_not_bought": int(sums.sold) - len(committed),
        "shelves_below_zero": int(sums.below),
        "snapshots_without_all_money": sum(missing != 0 for missing in story.snapshots),
    }
    story.figures |= {"messages": story.messages, "faults": story.told()}
    story.figures |= {"fired": dict(sorted(story.fired.items())), "snapshots": len(story.snapshots)}
    if wire is not None:
        faults |= _of_wire(wire, committed, story)
    story.figures |= faults
    return faults


def _of_wire(wire: Sequence[Record], committed: set[str], story: Story) -> dict[str, int]:
    published = {record.message_id for record in wire}
    story.figures["duplicates_on_the_wire"] = len(wire) - len(published)
    story.figures["duplicates_after"] = dict(_repeated(wire, story))
    return {
        "inversions_of_first_publications": inversions(_first(wire)),
        "not_published": len(committed - published),
        "published_but_not_committed": len(published - committed),
        "bodies_that_differ": _differing(wire),
    }


def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Read the whole topic, partition by partition."""
    reader = KafkaConsumer({"bootstrap.servers": bootstrap, "group.id": "observer", "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)])
    found: dict[int, list[Record]] = {n: [] for n in range(PARTITIONS)}
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        for record in reader.consume(5000, 1.0):
            error, partition = record.error(), record.partition() or 0
            if error is None:
                found[partition].append(_record(record))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(partition)
    reader.close()
    return [record for partition in found.values() for record in partition]


def inversions(order: Iterable[tuple[str, int]]) -> int:
    """How many numbers came after a higher one of their key."""
    highest: dict[str, int] = {}
    count = 0
    for key, number in order:
        count += number < highest.get(key, 0)
        highest[key] = max(number, highest.get(key, 0))
    return count


def _record(record: Any) -> Record:
    headers = dict(record.headers() or [])
    produced_at = datetime.fromtimestamp(record.timestamp()[1] / 1000, UTC)
    return Record(headers["message-id"].decode(), (record.key() or b"").decode(), record.value(), produced_at)


def _first(wire: Sequence[Record]) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for record in wire:
        if record.message_id not in seen:
            seen.add(record.message_id)
            yield record.key, json.loads(record.body)["payload"]["number"]


def _repeated(wire: Sequence[Record], story: Story) -> Counter[str]:
    """The records that came again, each put down to the fault before it.

    A record's time is that of its producer, and a paused one's records are stored late: the later time of both counts.
    """
    seen: dict[str, datetime] = {}
    causes: Counter[str] = Counter()
    for record in wire:
        if record.message_id in seen:
            causes[story.last_before(max(seen[record.message_id], record.produced_at))] += 1
        else:
            seen[record.message_id] = record.produced_at
    return causes


def _differing(wire: Sequence[Record]) -> int:
    bodies: dict[str, bytes] = {}
    return sum(bodies.setdefault(record.message_id, record.body) != record.body for record in wire)
