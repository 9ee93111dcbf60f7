"""What becomes of messages that the broker refuses or does not answer, of their keys, and of replaced relays."""

import asyncio
import logging
from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import AWAY, LOST, REFUSED, STORED, ScriptedBroker
from outbox.support import WAITING, OffsetClock, Placed, ids, open_database, rows, session_of
from outbox.test_relay import QUICK, drained, fill, running, until
from txpatterns.coordination.leases import Leases
from txpatterns.database.stored import message_of
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.errors import LeaseLost
from txpatterns.messages import BUCKETS, bucket_of
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.relay.due import DueStore
from txpatterns.outbox.relay.holding_store import Failure, HoldingStore
from txpatterns.outbox.relay.rows import Row, lane_of
from txpatterns.outbox.schema import SCOPE, Waiting, outbox_table, waiting_table
from txpatterns.retries import LADDER, FailurePolicies, FailurePolicy, OnFailure, RetryLadder

pytestmark = pytest.mark.one_driver

DEAD = sa.select(dead_letter_table)
LONG = tuple(60 * step for step in LADDER)
"""No step passes while a relay is still at the one before, on any machine."""


@pytest.fixture
def clock():
    return OffsetClock()


@pytest.fixture
async def store(any_database, clock):
    async with open_database(any_database, clock=clock) as store:
        yield store


@pytest.fixture
def outbox(store):
    return Outbox(store)


async def failing(store, state=Waiting.RETRYING):
    return [row for row in await rows(store, WAITING) if row.state == state]


async def hold_up(store, outbox, broker, key="k", each=4):
    """A key whose first message has failed once, as a relay finds it at its start; its followers are behind it."""
    added = await fill(store, outbox, [key], each)
    (first,) = [row for row in await rows(store) if row.message_id == added[key][0]]
    await _first_failure(store, first)
    broker.decide = lambda message: LOST if message.id == added[key][0] else STORED
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        await until(lambda: relay._serving and relay._serving.backlog.held)
        async with asyncio.timeout(120):
            while await ids(store):  # noqa: ASYNC110 - the database changes, and tells nobody
                await asyncio.sleep(0.01)
    return added[key]


async def test_doubts_are_counted_only_while_others_are_confirmed(store, outbox):
    """P3, H22, H26: a message that is never answered is held after three doubts, its followers wait behind it."""
    broker = ScriptedBroker()
    added = await fill(store, outbox, ["k"], 4)
    broker.decide = lambda message: LOST if message.id == added["k"][0] else STORED
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        n = 0
        while not await failing(store):
            n += 1
            await fill(store, outbox, [f"other{n}"], 1)
            await until(lambda key=f"other{n}": broker.wire and broker.wire[-1].key == key)
        async with asyncio.timeout(120):
            while len(await failing(store, Waiting.BEHIND)) < 3:  # noqa: ASYNC110 - the database changes, and tells nobody
                await asyncio.sleep(0.01)
    assert "k" not in broker.first_of_key


@pytest.mark.parametrize("policy", list(OnFailure), ids=str)
async def test_the_ladder_is_climbed_once(store, outbox, clock, policy):
    """P3, H24, H25, I10: at most 7 attempts, each wait within its step and a tenth more, then a dead letter."""
    policies = FailurePolicies(FailurePolicy(policy, RetryLadder(LONG)))
    added = await fill(store, outbox, ["k"], 3)
    (first,) = [row for row in await rows(store) if row.message_id == added["k"][0]]
    broker = ScriptedBroker()
    broker.decide = lambda message: LOST if message.id == added["k"][0] else STORED
    await _first_failure(store, first, policies)
    for attempt, step in enumerate(LONG, start=1):
        (waiting,) = [row for row in await rows(store, WAITING) if row.message_id == added["k"][0]]
        assert waiting.attempts == attempt
        wait = waiting.due_at - await _now(store)
        assert step - timedelta(seconds=50) < wait <= step * 1.1
        clock.offset += wait
        calls = len(broker.calls)
        relay = Relay(store, broker, settings=QUICK, policies=policies)
        async with running(relay):
            await until(lambda at=calls: any(added["k"][0] in {m.id for m in call} for call in broker.calls[at:]))
            await until(lambda one=relay: not one._serving.retrying.buckets)
            await drained(relay)
        if policy is OnFailure.SKIP:
            assert broker.first_of_key == {"k": added["k"][1:]}
        elif attempt < len(LONG):
            assert broker.first_of_key == {}
    (dead,) = await rows(store, DEAD)
    assert (dead.message_id, dead.attempts, dead.reason) == (added["k"][0], 7, "attempts used up")
    assert dead.payload == first.payload
    assert sum(call[0].id == added["k"][0] for call in broker.calls) == 6
    await Relay(store, broker, settings=QUICK, policies=policies).run_once()
    left = [row.message_id for row in await rows(store, WAITING)]
    if policy is OnFailure.PARK:
        assert (broker.first_of_key, left) == ({}, added["k"][1:])
    else:
        assert (broker.first_of_key, left) == ({"k": added["k"][1:]}, [])
    assert await ids(store) == []


async def test_a_confirmed_retry_is_noted_after_the_outage(store, outbox, clock, monkeypatch):
    """P1, H20, H35, I9: confirmed in its last attempt while the database goes away, it is neither repeated nor dead."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    broker.decide, broker.wire[:] = lambda _: STORED, []
    await store.execute(sa.update(waiting_table).where(waiting_table.c.attempts > 0).values(attempts=len(LADDER) - 1))
    noting = DueStore.published

    async def away(*_):
        monkeypatch.setattr(DueStore, "published", noting)
        raise OSError("the database is away")

    monkeypatch.setattr(DueStore, "published", away)
    clock.offset += timedelta(hours=1)
    await Relay(store, broker, settings=QUICK).run_once()
    assert DueStore.published is noting
    assert (broker.first_of_key, set(broker.copies.values())) == ({"k": added}, {1})
    assert (await rows(store, DEAD), await rows(store, WAITING), await ids(store)) == ([], [], [])


async def _now(store):
    return await store.read(lambda connection: connection.execute(sa.select(store.now())).scalar_one())


async def _first_failure(store, row, policies=None):
    """Let a relay's first attempt fail, as the relay writes it down."""
    leases = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=5))
    await leases.join()
    held = await leases.acquire(1)
    lanes = HoldingStore(store, leases, policies or FailurePolicies(), _Middle())
    message = message_of(row._mapping)
    failing = Row(row.position, row.bucket, message, lane_of(message))
    await lanes.fail(held, [Failure(failing, None, permanent=False)])
    await leases.leave()


class _Middle:
    def random(self):
        return 0.5


async def test_held_key_goes_on_in_order_when_the_retry_is_confirmed(store, outbox, clock):
    """P3, H22, H24: followers wait behind the failing message and come after it, those added meanwhile included."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    assert [row.message_id for row in await failing(store, Waiting.BEHIND)] == added[1:]
    broker.decide = lambda _: STORED
    clock.offset += timedelta(seconds=2)
    async with session_of(store) as session, session.begin():
        added.append(outbox.add(session, Placed(order_id="k", n=9)))
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key["k"] == added
    assert await rows(store, WAITING) == []


async def test_processes_that_die_during_attempts_use_them_up(store, outbox, clock):
    """P7, H25, H30, I10: an attempt is counted before it is made; after seven the message is dead, not in a loop."""
    added = await fill(store, outbox, ["k"], 2)
    await _first_failure(store, (await rows(store))[0])
    leases = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=5))
    waiting = DueStore(store, leases, FailurePolicies(), _Middle())
    for attempt in range(2, 8):
        clock.offset += timedelta(hours=1)
        await leases.join()
        held = await leases.acquire(1)
        (due,) = await waiting.claim_due(held, 10, ())
        assert due.attempts == attempt  # and here the process dies
        await leases.leave()
    clock.offset += timedelta(hours=1)
    broker = ScriptedBroker()
    await Relay(store, broker, settings=QUICK).run_once()
    (dead,) = await rows(store, DEAD)
    assert (dead.message_id, dead.attempts) == (added["k"][0], 7)
    assert broker.first_of_key == {"k": added["k"][1:]}


async def test_followers_left_by_a_crash_go_on(store, outbox, clock):
    """P7, H30: a crash between the dead letter and the release of its followers leaves nobody waiting."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    await store.execute(sa.delete(waiting_table).where(waiting_table.c.state == Waiting.RETRYING))
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key["k"] == added[1:]


async def test_a_long_outage_makes_no_dead_letters(store, outbox, clock):
    """H26: three hours without a broker burn no attempt; afterwards everything goes out in order."""
    broker = ScriptedBroker()
    added = {"k": await hold_up(store, outbox, broker)}
    broker.decide = lambda _: AWAY
    attempts = (await failing(store))[0].attempts
    for _ in range(18):
        clock.offset += timedelta(minutes=10)
        relay, calls = Relay(store, broker, settings=QUICK), len(broker.calls)
        async with running(relay):
            await until(lambda at=calls: len(broker.calls) > at)
    added |= await fill(store, outbox, ["a", "b"], 10)
    relay, calls = Relay(store, broker, settings=QUICK), len(broker.calls)
    async with running(relay):
        await until(lambda: len(broker.calls) > calls + 2)
    assert await rows(store, DEAD) == []
    assert [row.attempts for row in await failing(store)] == [attempts]
    broker.decide = lambda _: STORED
    clock.offset += timedelta(minutes=10)
    await Relay(store, broker, settings=QUICK).run_once()
    assert {key: broker.first_of_key[key] for key in added} == added


async def test_an_attempt_that_takes_long_is_not_made_twice(store, outbox, clock):
    """P3, I9, I10: while a retry waits for its answer, its next due time passes: it is not sent beside itself."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    go, outs = asyncio.Event(), []

    async def slow(messages):
        if messages[0].id == added[0]:
            outs.append(messages[0].id)
            await go.wait()

    broker.before, broker.decide = slow, lambda _: STORED
    clock.offset += timedelta(seconds=2)
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        await until(lambda: outs)
        for n in range(3):
            clock.offset += timedelta(seconds=1)
            await fill(store, outbox, [f"beside{n}"], 1)
            await until(lambda key=f"beside{n}": broker.wire and broker.wire[-1].key == key)
        await store.execute(sa.update(waiting_table).values(due_at=store.now()).where(waiting_table.c.attempts > 0))
        await relay._serving._look()
        assert outs == [added[0]]
        go.set()
        await drained(relay)
    assert broker.first_of_key["k"] == added
    assert broker.copies[added[0]] == 1


async def test_replaced_relay_can_write_nothing(store, outbox, clock):
    """H18, H19, I11: after its lease every guarded write of a relay fails, and what its successor wrote stays."""
    broker = ScriptedBroker()
    await hold_up(store, outbox, broker)
    (row,) = await failing(store)
    old = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=5))
    await old.join()
    held = await old.acquire(1)
    waiting, lanes = (kind(store, old, FailurePolicies(), _Middle()) for kind in (DueStore, HoldingStore))
    clock.offset += timedelta(seconds=6)
    (due,) = await waiting.claim_due(held, 10, ()) or [None]  # nobody has taken over yet: still ours
    new = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=5))
    await new.join()
    taken = await new.acquire(1)
    assert taken.keys() == held.keys()
    assert all(taken[bucket] > held[bucket] for bucket in held)
    before = await rows(store, WAITING)
    message = message_of(row._mapping)
    for write in (
        lambda: waiting.published(held, due),
        lambda: waiting.give_back(held, due, timedelta(0)),
        lambda: waiting.conclude_due(held, due, None, permanent=True),
        lambda: lanes.set_aside(held, [due.row]),
        lambda: lanes.fail(held, [Failure(due.row, None, permanent=True)]),
        lambda: lanes.release(held, row.bucket, lane_of(message)),
        lambda: waiting.claim_due(held, 10, ()),
        lambda: waiting.enter_scheduled(held, 10),
    ):
        with pytest.raises(LeaseLost):
            await write()
    assert await rows(store, WAITING) == before
    assert await rows(store, DEAD) == []
    with pytest.raises(LeaseLost):
        await old.renew()


async def test_replaced_relay_cannot_write_during_the_takeover(database, clock):
    """H18, I11: while the takeover is not committed yet, the zombie waits for it, and then writes nothing."""
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        outbox = Outbox(store)
        added = await fill(store, outbox, ["k"], 1)
        (row,) = await rows(store)
        old, new = (Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(seconds=5)) for _ in range(2))
        await old.join()
        held = await old.acquire(1)
        lanes = HoldingStore(store, old, FailurePolicies(), _Middle())
        clock.offset += timedelta(seconds=6)
        await new.join()
        async with store.engine.connect() as connection:
            transaction = await connection.begin()

            def take_over(sync):
                new._bury(sync)
                new.slots.take(sync, new.owner, BUCKETS)

            await connection.run_sync(take_over)
            message = message_of(row._mapping)
            failing = Row(row.position, row.bucket, message, lane_of(message))
            zombie = asyncio.ensure_future(lanes.fail(held, [Failure(failing, None, permanent=True)]))
            locked = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not zombie.done() and not await store.read(lambda c: c.execute(locked).scalar_one()):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
            assert not zombie.done()
            await transaction.commit()
        with pytest.raises(LeaseLost):
            await zombie
        assert await ids(store) == added["k"]
        assert await rows(store, DEAD) == []


async def test_scheduled_messages_come_when_due_and_in_order(store, outbox, clock):
    """H99: not before their time, in the order of their due times; a cancelled one never."""
    broker = ScriptedBroker()
    async with session_of(store) as session, session.begin():
        late = [outbox.add(session, Placed(order_id="late", n=n), deliver_after=timedelta(hours=2)) for n in range(3)]
        early = [outbox.add(session, Placed(order_id="early", n=n), deliver_after=timedelta(hours=1)) for n in range(3)]
        async with session.begin_nested() as savepoint:
            outbox.add(session, Placed(order_id="gone"), deliver_after=timedelta(hours=1))
            await savepoint.rollback()
    relay = Relay(store, broker, settings=QUICK)
    await relay.run_once()
    assert broker.wire == []
    async with session_of(store) as session, session.begin():
        assert await outbox.acancel(session, early[1])
    async with session_of(store) as session:
        assert await outbox.acancel(session, early[2])
        await session.rollback()
    clock.offset += timedelta(minutes=61)
    await relay.run_once()
    assert broker.first_of_key == {"early": [early[0], early[2]]}
    async with session_of(store) as session, session.begin():
        assert not await outbox.acancel(session, early[0])
    clock.offset += timedelta(minutes=61)
    await relay.run_once()
    assert broker.first_of_key["late"] == late


async def test_an_id_that_is_scheduled_and_in_the_outbox_is_sent_once(store, outbox, clock):
    """P1, I9: the same id twice, once for later, is one message: when that is due it does not trip over the other."""
    broker = ScriptedBroker()
    broker.decide = lambda _: AWAY
    for later in (timedelta(hours=1), None):
        async with session_of(store) as session, session.begin():
            outbox.add(session, Placed(order_id="k"), message_id="once", deliver_after=later)
    clock.offset += timedelta(hours=2)
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        async with asyncio.timeout(120):
            while await rows(store, WAITING):  # noqa: ASYNC110 - the database changes, and tells nobody
                await asyncio.sleep(0.01)
        broker.decide = lambda _: STORED
        clock.offset += timedelta(seconds=30)
        relay.wake()
        await drained(relay)
    assert broker.copies == {"once": 1}
    assert await ids(store) == []


async def test_an_id_that_is_scheduled_and_fails_in_the_outbox(store, outbox, clock):
    """P1, P7, I9: the failing one takes the scheduled one's place; its key is held, and goes on when it is sent."""
    for later in (timedelta(hours=1), None, None):
        async with session_of(store) as session, session.begin():
            name = None if later is None and await ids(store) else "once"
            outbox.add(session, Placed(order_id="k"), message_id=name, deliver_after=later)
    first, second = await rows(store)
    await _first_failure(store, first)
    (waits,) = await rows(store, WAITING)
    assert (waits.message_id, waits.state, waits.position, waits.attempts) == ("once", "retrying", first.position, 1)
    clock.offset += timedelta(hours=2)
    broker = ScriptedBroker()
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key == {"k": ["once", second.message_id]}
    assert broker.copies["once"] == 1
    assert await rows(store, WAITING) == []


async def test_an_id_that_fails_and_is_added_again(store, outbox, clock):
    """P1, P7, I9: the second one is the same message and goes away; the first is tried again, its key goes on."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    async with session_of(store) as session, session.begin():
        outbox.add(session, Placed(order_id="k", n=9), message_id=added[0])
        outbox.add(session, Placed(order_id="k", n=9), message_id=added[2])
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        async with asyncio.timeout(120):
            while await ids(store):  # noqa: ASYNC110 - the database changes, and tells nobody
                await asyncio.sleep(0.01)
    assert [row.message_id for row in await rows(store, WAITING)] == added
    broker.decide = lambda _: STORED
    clock.offset += timedelta(hours=2)  # whichever attempt is the next
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key["k"] == added
    assert await rows(store, WAITING) == []


async def test_cancelling_under_way_neither_spins_nor_sends(database, clock):
    """H35: a due message that a transaction is cancelling is left alone, without asking again and again."""
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        outbox, broker = Outbox(store), ScriptedBroker()
        async with session_of(store) as session, session.begin():
            due = outbox.add(session, Placed(order_id="k"), deliver_after=timedelta(seconds=1))
        clock.offset += timedelta(seconds=2)
        relay, looks = Relay(store, broker, settings=QUICK), []
        async with session_of(store) as session, running(relay):
            assert await outbox.acancel(session, due)
            sa.event.listen(
                store._own.sync_engine,
                "before_cursor_execute",
                lambda _c, _cu, text, *_: looks.append(text) if "txp_outbox_waiting.due_at" in text else None,
            )
            await asyncio.sleep(1.0)
            assert 1 <= len(looks) < 40
            await session.commit()
            await drained(relay)
        assert broker.wire == []


async def test_the_database_goes_away_and_comes_back(own_postgres, caplog):
    """P1, P7, H35: the relay waits the outage out with few log lines, and loses nothing."""
    caplog.set_level(logging.INFO, "txpatterns")
    with own_postgres.database() as made:
        async with open_database(made.url("asyncpg")) as store:
            outbox, broker = Outbox(store), ScriptedBroker()
            added = await fill(store, outbox, ["a", "b"], 3)
            relay = Relay(store, broker, settings=RelaySettings(lease=timedelta(seconds=2)))
            async with running(relay):
                await drained(relay)
                own_postgres.kill()
                await asyncio.sleep(2)
                own_postgres.start()
                async with asyncio.timeout(120):
                    while True:
                        try:
                            more = await fill(store, outbox, ["a"], 1)
                            break
                        except Exception:  # noqa: BLE001 - the server is coming up
                            await asyncio.sleep(0.1)
                await drained(relay)
            assert broker.first_of_key == {"a": added["a"] + more["a"], "b": added["b"]}
            lines = [record for record in caplog.records if record.name in ("txpatterns", "txpatterns.relay")]
            assert 1 <= len(lines) <= 20


@pytest.mark.timeout(900)
@pytest.mark.parametrize("many", [50_000, pytest.param(200_000, marks=pytest.mark.soak)])
async def test_many_followers_do_not_hide_other_keys(database, many):
    """P7, H24: with 200,000 followers of one held key in front, another key is published, and the lane gets through."""
    clock = OffsetClock()
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        outbox, broker = Outbox(store), ScriptedBroker(ordered=True)
        await hold_up(store, outbox, broker, each=1)
        bucket = bucket_of("k")
        text = sa.text(
            "INSERT INTO txp_outbox (message_id, topic, type, key, bucket, payload, headers, content_type, occurred_at)"
            f" SELECT 'f' || n, 'orders', 'order.placed', 'k', {bucket}, '{{}}', '{{}}', 'application/json', now()"
            f" FROM generate_series(1, {many}) AS n"
        )
        await store.transact(lambda connection: connection.execute(text))
        added = await fill(store, outbox, ["other"], 2)
        relay = Relay(store, broker, settings=RelaySettings())
        async with running(relay):
            await until(lambda: broker.first_of_key.get("other") == added["other"])
            assert "f1" not in broker.copies
            broker.decide = lambda _: STORED
            clock.offset += timedelta(seconds=2)
            await until(lambda: len(broker.wire) >= many, within=800)
            await drained(relay)
        followers = [one for one in broker.first_of_key["k"] if one.startswith("f")]
        assert followers == [f"f{n}" for n in range(1, many + 1)]
        assert await store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(outbox_table)).scalar()) == 0


async def test_positions_used_again_delete_nothing(tmp_path):
    """P1: on SQLite a late settle of a former row must not delete a new one, whatever positions they have."""
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}") as store:
        outbox, broker = Outbox(store), ScriptedBroker()
        await fill(store, outbox, ["a"], 1)
        relay = Relay(store, broker, settings=QUICK)
        await relay.run_once()
        await store.transact(lambda c: c.execute(sa.text("UPDATE sqlite_sequence SET seq = 0")))
        added = await fill(store, outbox, ["b"], 1)
        (row,) = await rows(store)
        message = broker.wire[0]
        relay._state.confirmed.append(Row(row.position, message.bucket, message, lane_of(message)))
        broker.decide = lambda _: AWAY
        async with running(relay):
            await until(lambda: not relay._state.confirmed and len(broker.calls) > 2)
        assert await ids(store) == added["b"]


async def test_a_rejected_retry_is_dead_at_once(store, outbox, clock):
    """H26: a permanent answer to a retry ends the ladder."""
    broker = ScriptedBroker()
    added = await hold_up(store, outbox, broker)
    broker.decide = lambda message: REFUSED if message.id == added[0] else STORED
    clock.offset += timedelta(seconds=2)
    await Relay(store, broker, settings=QUICK).run_once()
    (dead,) = await rows(store, DEAD)
    assert (dead.message_id, dead.attempts, dead.reason) == (added[0], 2, "rejected")
    assert broker.first_of_key["k"] == added[1:]


def test_ladder_and_policy_are_pure():
    """H25: seven attempts in all; jitter only lengthens a wait."""
    ladder = RetryLadder()
    assert ladder.attempts == 7
    assert ladder.delay(7, _Middle()) is None
    assert [ladder.delay(n, _Middle()) for n in range(1, 7)] == [step * 1.05 for step in LADDER]
