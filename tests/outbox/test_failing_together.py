"""Messages that fail together leave the outbox in one transaction, each in its own way."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
import sqlalchemy as sa

from outbox.broker import REJECTED
from outbox.support import WAITING, ids, open_database, rows
from outbox.test_relay import drained, running
from outbox.test_troubled import SETTINGS, Bad, Good, Troubled, add
from txpatterns.coordination.leases import Leases
from txpatterns.database.stored import message_of
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.messages import BUCKETS, Event
from txpatterns.outbox import Outbox, Relay
from txpatterns.outbox.relay import holding
from txpatterns.outbox.relay.holding_store import Failure, HoldingStore
from txpatterns.outbox.relay.rows import Row, lane_of
from txpatterns.outbox.schema import SCOPE, Waiting, waiting_table
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder

pytestmark = pytest.mark.one_driver

DEAD = sa.select(dead_letter_table).order_by(dead_letter_table.c.id)
HOUR = timedelta(hours=1)
POLICIES = FailurePolicies(
    FailurePolicy(ladder=RetryLadder((HOUR,))),
    {
        "parks": FailurePolicy(OnFailure.PARK, RetryLadder((HOUR,))),
        "skips": FailurePolicy(OnFailure.SKIP, RetryLadder((2 * HOUR,))),
        "once": FailurePolicy(ladder=RetryLadder(())),
    },
)


class Holds(Event, topic="holds", type="holds", key="name"):
    name: str


class Parks(Event, topic="parks", type="parks", key="name"):
    name: str


class Skips(Event, topic="skips", type="skips", key="name"):
    name: str


class Once(Event, topic="once", type="once", key="name"):
    name: str


class Keyless(Event, topic="holds", type="keyless"):
    name: str


REFUSED, UNANSWERED = True, False
EACH = [
    (Holds(name="a"), REFUSED),
    (Parks(name="b"), REFUSED),
    (Once(name="c"), UNANSWERED),
    (Keyless(name="d"), REFUSED),
    (Holds(name="e"), UNANSWERED),
    (Parks(name="f"), UNANSWERED),
    (Skips(name="g"), UNANSWERED),
    (Keyless(name="h"), UNANSWERED),
    (Holds(name="known"), UNANSWERED),
    (Holds(name="known, too"), UNANSWERED),
]


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


async def test_each_leaves_in_its_own_way(store):
    """P3, P7, H24, H26: what is refused is dead, what was not answered waits by its policy; only those lanes are held.

    A message whose id waits already is the same one, and goes on as it was.
    """
    added = await add(store, Outbox(store), [event for event, _ in EACH])
    names = dict(zip(added, [*"abcdefgh", "known", "known, too"], strict=True))
    known = {"topic": "holds", "type": "holds", "bucket": 0, "payload": b"{}", "headers": "{}"}
    known |= {"content_type": "application/json", "occurred_at": store.now(), "attempts": 4, "state": Waiting.RETRYING}
    for message_id in added[-2:]:
        await store.execute(sa.insert(waiting_table).values(message_id=message_id, **known))
    found = [Row(r.position, r.bucket, m, lane_of(m)) for r in await rows(store) for m in [message_of(r._mapping)]]
    errors = {row.message.id: ValueError(names[row.message.id]) for row in found}
    failures = [
        Failure(row, errors[row.message.id], permanent) for row, (_, permanent) in zip(found, EACH, strict=True)
    ]
    leases = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=60))
    await leases.join()
    now = await store.moment()
    lanes, ours = HoldingStore(store, leases, POLICIES, Random(1)), await leases.acquire(1)
    assert await lanes.fail(ours, failures[:-1]) == {("parks", "kb"), ("holds", "ke"), ("parks", "kf")}
    assert await lanes.fail(ours, failures[-1:]) == set()
    assert not await ids(store)
    dead = await rows(store, DEAD)
    assert [(names[row.message_id], row.attempts, row.reason, row.error) for row in dead] == [
        ("a", 1, "rejected", "ValueError: a"),
        ("b", 1, "rejected", "ValueError: b"),
        ("c", 1, "attempts used up", "ValueError: c"),
        ("d", 1, "rejected", "ValueError: d"),
    ]
    assert [(row.position, message_of(row._mapping)) for row in dead] == [
        (failure.row.position, failure.row.message) for failure in failures[:4]
    ]
    waiting = {names[row.message_id]: row for row in await rows(store, WAITING)}
    assert {name: (row.state, row.attempts, row.error) for name, row in waiting.items()} == {
        "e": (Waiting.RETRYING, 1, "ValueError: e"),
        "f": (Waiting.RETRYING, 1, "ValueError: f"),
        "g": (Waiting.SKIPPED, 1, "ValueError: g"),
        "h": (Waiting.RETRYING, 1, "ValueError: h"),
        "known": (Waiting.RETRYING, 4, None),
        "known, too": (Waiting.RETRYING, 4, None),
    }
    steps = {name: round((row.due_at - now) / HOUR, 1) for name, row in waiting.items() if row.due_at}
    assert all(1 <= steps[name] <= 1.2 for name in "efh")
    assert 2 <= steps["g"] <= 2.3


@pytest.mark.parametrize(("bound", "value"), [("_TOGETHER", 7), ("_BYTES", 1000)])
async def test_what_is_refused_is_written_together_and_not_too_much_at_once(store, bound, value, monkeypatch):
    """P1, P7, H26, H192: many are written at a time, in transactions that stay short."""
    may_write, fail, written = asyncio.Event(), HoldingStore.fail, []

    async def counted(self, held, failures):
        await may_write.wait()
        written.append([len(failure.row.message.payload) for failure in failures])
        return await fail(self, held, failures)

    monkeypatch.setattr(HoldingStore, "fail", counted)
    monkeypatch.setattr(holding, bound, value)
    broker = Troubled(REJECTED, ordered=False)
    events = [Bad(name=f"bad {n}") for n in range(40)] + [Bad(name="bad " + "x" * 1000)] + [Good(name="good")]
    *bad, good = await add(store, Outbox(store), events)
    relay = Relay(store, broker, settings=replace(SETTINGS, read_ahead=200))
    async with running(relay):
        async with asyncio.timeout(120):
            while len(broker.asked) < len(bad):  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.01)
        may_write.set()
        await drained(relay)
    assert [row.message_id for row in await rows(store, DEAD)] == bad
    assert broker.stored_ids == {good}
    assert len(written) < len(bad) / 2
    assert all(len(sizes) <= 7 if bound == "_TOGETHER" else len(sizes) == 1 or sum(sizes) <= 1000 for sizes in written)
