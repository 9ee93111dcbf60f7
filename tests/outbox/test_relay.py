"""The relay on real databases, before a broker that follows a script: nothing lost, order per key, few duplicates."""

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from itertools import permutations, product
from random import Random

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from outbox.broker import AWAY, LOST, REFUSED, REPLY_LOST, STORED, ScriptedBroker
from outbox.support import WAITING, Keyless, Pictured, Placed, ids, open_database, rows, session_of
from txpatterns.coordination.leases import Leases
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database.direct import Direct
from txpatterns.database.engines import sync_side
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.errors import ConfigurationError
from txpatterns.messages import BUCKETS, bucket_of, new_id
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.relay import serving
from txpatterns.outbox.relay.store import OutboxStore, Place
from txpatterns.outbox.schema import SCOPE, outbox_table, sent_table
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder

QUICK = RelaySettings(batch=50, read_ahead=200, poll=timedelta(milliseconds=50), lease=timedelta(seconds=5))
PATIENCE = 120
"""Seconds in which what is waited for comes, on any machine."""
BOTH = pytest.mark.parametrize("ordered", [False, True], ids=["one by one", "ordered prefix"])


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


@pytest.fixture
def outbox(store):
    return Outbox(store)


async def fill(store, outbox, keys, each, **given):
    """Messages in one transaction after the other; their ids by key, in order."""
    added = {key: [] for key in keys}
    for n in range(each):
        async with session_of(store) as session, session.begin():
            for key in keys:
                added[key].append(outbox.add(session, Placed(order_id=key, n=n), **given))
    return added


@asynccontextmanager
async def running(*relays):
    tasks = [asyncio.ensure_future(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for relay in relays:
            relay.stop()
        await asyncio.gather(*tasks)


async def drained(*relays, within=None):
    async with asyncio.timeout(within or PATIENCE):
        for relay in relays:
            await relay.drained()


async def until(condition, what="it", within=None):
    async with asyncio.timeout(within or PATIENCE):
        while not condition():  # noqa: ASYNC110 - the database changes, and tells nobody
            await asyncio.sleep(0.005)


@BOTH
async def test_everything_goes_out_once_and_in_order(store, outbox, ordered):
    """P1, P3: without faults each message is published once, in order per key, and the outbox is empty then."""
    added = await fill(store, outbox, ["a", "b", "c"], 30)
    async with session_of(store) as session, session.begin():
        keyless = [outbox.add(session, Keyless(n=n)) for n in range(30)]
    broker = ScriptedBroker(ordered=ordered)
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key == {**added, None: keyless} or {
        k: sorted(v) if k is None else v for k, v in broker.first_of_key.items()
    } == {**added, None: sorted(keyless)}
    assert set(broker.copies.values()) == {1}
    assert await ids(store) == []


async def test_a_relay_finds_what_is_added_while_it_runs(store, outbox):
    """P1, P7: a wake-up or a poll finds it; drained() is exact."""
    broker = ScriptedBroker()
    relay = Relay(store, broker, settings=QUICK)
    outbox.on_commit = relay.wake
    async with running(relay):
        for n in range(20):
            async with session_of(store) as session, session.begin():
                added = outbox.add(session, Placed(order_id="k", n=n))
            await drained(relay)
            assert broker.wire[-1].id == added
    assert len(broker.wire) == 20


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_all_orders_of_commits_aborts_and_polls(postgres, order):
    """P1, P3, H7, H9, H33: three writers draw positions in one order and end in any other, with polls between.

    Each of them commits or aborts. What is committed goes out at the next poll, and nothing else ever does.
    """
    with postgres.database() as made:
        async with open_database(made.url("asyncpg")) as store:
            outbox, broker, expected = Outbox(store), ScriptedBroker(), []
            relay = Relay(store, broker, settings=QUICK)
            async with running(relay):
                for aborting in product((False, True), repeat=3):
                    writers = []
                    for n in range(3):
                        connection = await store.engine.connect()
                        transaction = await connection.begin()
                        await connection.execute(_raw_insert(outbox, f"{aborting} {n}"))  # its position is drawn now
                        writers.append((connection, transaction))
                    for n in order:
                        connection, transaction = writers[n]
                        if aborting[n]:
                            await transaction.rollback()
                        else:
                            await transaction.commit()
                            expected.append(f"{aborting} {n}")
                        await connection.close()
                        await drained(relay)
                        assert [message.key for message in broker.wire] == expected
            assert len(expected) == 12
            assert await ids(store) == []


def _raw_insert(outbox, key):
    from txpatterns.outbox.schema import COLUMNS
    from txpatterns.outbox.writer import row_of

    message = outbox._message(Placed(order_id=key), new_id(), {})
    return sa.insert(outbox_table).inline().values(**dict(zip(COLUMNS, row_of(message), strict=True)))


async def test_a_late_commit_is_found_without_being_asked(database):
    """P1, H7: a row that appears below what was read already is found by the rescan of an idle relay."""
    async with open_database(database.url("asyncpg")) as store:
        outbox, broker = Outbox(store), ScriptedBroker()
        async with running(Relay(store, broker, settings=QUICK)), store.engine.connect() as late:
            transaction = await late.begin()
            await late.execute(_raw_insert(outbox, "late"))
            await fill(store, outbox, ["early"], 3)
            await until(lambda: len(broker.wire) == 3)
            await transaction.commit()
            await until(lambda: len(broker.wire) == 4)
        assert broker.wire[-1].key == "late"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@BOTH
async def test_a_late_commit_is_not_overtaken_by_its_key(database, driver, ordered, monkeypatch):
    """P3, H7, H190: a row commits below the place that was read, a later one of its key lies behind it: it goes first.

    Whether the relay is in the middle of a pass, at its end, or busy with other keys; also when the row was written
    under a savepoint, whose number is none that the server tells of.
    """
    settings = RelaySettings(batch=20, poll=timedelta(milliseconds=50), lease=timedelta(seconds=30))
    async with open_database(database.url(driver)) as store:
        outbox, broker, reached, go_on = (
            Outbox(store),
            ScriptedBroker(ordered=ordered),
            asyncio.Event(),
            asyncio.Event(),
        )
        page, pages = OutboxStore.page, 0

        async def held_up(self, *given):
            nonlocal pages
            pages += 1
            if pages == stop_at:
                reached.set()
                await go_on.wait()
            return await page(self, *given)

        monkeypatch.setattr(OutboxStore, "page", held_up)
        for stop_at, nested in product((2, 3, 4), (False, True)):
            pages, key = 0, f"late {stop_at} {nested}"
            broker.wire.clear()
            reached.clear()
            go_on.clear()
            relay = Relay(store, broker, settings=settings)
            async with store.engine.connect() as late:
                transaction = await late.begin()
                async with late.begin_nested() if nested else nullcontext():
                    await late.execute(_raw_insert(outbox, key))
                await fill(store, outbox, [f"key {n}" for n in range(30)], 1)
                async with running(relay):
                    async with asyncio.timeout(120):
                        await reached.wait()
                    await transaction.commit()
                    later = await fill(store, outbox, [key], 2)
                    go_on.set()
                    await drained(relay)
            told = [message.id for message in broker.wire if message.key == key]
            assert told[1:] == later[key]
            assert len(told) == 3


async def test_shared_row_lock_makes_positions_follow_commits(database):
    """P3, H7: two transactions that lock one row send in the order in which they commit, whenever they added."""
    from outbox.support import Order

    async with open_database(database.url("asyncpg")) as store:
        outbox = Outbox(store)
        async with session_of(store) as session, session.begin():
            session.add(Order(id="o"))
        lock = sa.select(Order).where(Order.id == "o").with_for_update()
        async with session_of(store) as second, session_of(store) as first:
            late = outbox.add(second, Placed(order_id="o", n=2))  # added first, but it waits for the row
            early = outbox.add(first, Placed(order_id="o", n=1))
            await first.execute(lock)
            waiting = asyncio.ensure_future(second.execute(lock))
            await asyncio.sleep(0)
            await first.commit()
            await waiting
            await second.commit()
        assert await ids(store) == [early, late]


@BOTH
async def test_no_transaction_is_open_while_the_broker_is_awaited(database, ordered):
    """H27, I14: with a broker that does not answer, no session of ours is in a transaction."""
    async with open_database(database.url("asyncpg")) as store:
        outbox, broker = Outbox(store), ScriptedBroker(ordered=ordered)
        go = asyncio.Event()
        broker.before = lambda _: go.wait()
        await fill(store, outbox, ["a", "b"], 5)
        relay = Relay(store, broker, settings=QUICK)
        async with running(relay):
            await until(lambda: broker.under_way)
            busy = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND state = 'idle in transaction'"
            )
            # A lease is renewed meanwhile, in a moment's transaction; one that waits for the broker would stay.
            for _ in range(20):
                async with asyncio.timeout(120):
                    while await store.read(lambda c: c.execute(busy).scalar_one()):  # noqa: ASYNC110 - the server tells nobody
                        await asyncio.sleep(0.005)
            go.set()
            await drained(relay)
        assert await ids(store) == []


async def test_a_batch_costs_one_statement_to_settle(any_database, monkeypatch):
    """H28: 50 messages are deleted by one statement, and reading them took one more."""
    said, run = [], Direct.run

    def listen(direct, method, text, values):
        said.append(text)
        return run(direct, method, text, values)

    monkeypatch.setattr(Direct, "run", listen)
    async with open_database(any_database) as store:
        outbox, broker = Outbox(store), ScriptedBroker()
        await fill(store, outbox, [f"k{n}" for n in range(50)], 1)
        event.listen(
            sync_side(store.home.base),
            "before_cursor_execute",
            lambda _c, _cu, text, *_: said.append(text),
            named=False,
        )
        await Relay(store, broker, settings=QUICK).run_once()
    assert len([text for text in said if "DELETE FROM txp_outbox " in text.replace("public.", "")]) == 1
    assert len(broker.wire) == 50


@pytest.mark.parametrize("copies", [1, 3])
async def test_kept_messages_are_moved(store, outbox, copies):
    """H28, H29: with keep_sent a message is in the outbox or among the sent ones, never in both or neither."""
    settings = RelaySettings(keep_sent=timedelta(days=1), poll=timedelta(milliseconds=50))
    added = await fill(store, outbox, ["a"], 10)
    relay = Relay(store, ScriptedBroker(), settings=settings)
    for _ in range(copies):
        await relay.run_once()
    sent = await rows(store, sa.select(sent_table).order_by(sent_table.c.position))
    assert [row.message_id for row in sent] == added["a"]
    assert await ids(store) == []


async def test_only_what_was_sent_long_ago_is_forgotten(store, outbox, monkeypatch):
    """H28, H29: batch after batch until all of it is gone; what waits or was sent lately stays, however old it is."""
    monkeypatch.setattr(serving, "_FORGET", 4)
    settings = RelaySettings(keep_sent=timedelta(days=1), poll=timedelta(milliseconds=50))
    await fill(store, outbox, ["old"], 30)
    await Relay(store, ScriptedBroker(), settings=settings).run_once()
    long_ago = store.now(-timedelta(days=2))
    await store.transact(lambda c: c.execute(sa.update(sent_table).values(sent_at=long_ago)))
    added = await fill(store, outbox, ["new"], 5)
    waiting = await fill(store, outbox, ["later"], 1, deliver_after=timedelta(days=9))
    await store.transact(lambda c: c.execute(sa.update(outbox_table).values(occurred_at=long_ago)))
    await Relay(store, ScriptedBroker(), settings=settings).run_once()
    kept = await rows(store, sa.select(sent_table).order_by(sent_table.c.position))
    assert [row.message_id for row in kept] == added["new"]
    assert [row.message_id for row in await rows(store, WAITING)] == waiting["later"]


@BOTH
async def test_replies_lost_cost_duplicates_only(store, outbox, ordered):
    """P1, P3, H20, H22, H23: stored but not answered, or not stored: sent again in order, the same bytes."""
    added = await fill(store, outbox, ["a", "b", "c", "d"], 12)
    broker, dice = ScriptedBroker(ordered=ordered), Random(7)
    broker.decide = lambda _: dice.choice([STORED] * 8 + [LOST, REPLY_LOST])
    policies = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=20),) * 20)))
    await asyncio.wait_for(Relay(store, broker, settings=QUICK, policies=policies).run_once(), 120)
    async with asyncio.timeout(120):
        while await rows(store, WAITING) or await ids(store):
            await Relay(store, broker, settings=QUICK, policies=policies).run_once()
    assert broker.first_of_key == added
    for message_id in broker.copies:
        assert len({message.payload for message in broker.wire if message.id == message_id}) == 1


@BOTH
async def test_one_rejected_message_among_a_thousand(store, outbox, ordered):
    """P3, H23, H24, H26: a message that can never go is a dead letter at once, byte for byte; its key goes on."""
    keys = [f"k{n}" for n in range(200)]
    added = await fill(store, outbox, keys, 3)
    poison = added["k7"][1]
    broker = ScriptedBroker(ordered=ordered)
    broker.decide = lambda message: REFUSED if message.id == poison else STORED
    before = {row.message_id: row for row in await rows(store)}
    await Relay(store, broker, settings=QUICK).run_once()
    expected = {key: [one for one in each if one != poison] for key, each in added.items()}
    assert broker.first_of_key == expected
    assert await ids(store) == []
    assert await rows(store, WAITING) == []
    (dead,) = await rows(store, sa.select(dead_letter_table))
    for name in ("message_id", "topic", "type", "key", "payload", "content_type", "occurred_at", "position"):
        assert getattr(dead, name) == getattr(before[poison], name), name
    assert json.loads(dead.headers) == json.loads(before[poison].headers)
    assert (dead.attempts, dead.reason) == (1, "rejected")
    assert "too large" in dead.error


async def test_a_rejection_in_company_is_believed_only_alone(store, outbox):
    """H23: a batching transport blames healthy neighbours; sent by themselves they are confirmed, in order."""
    added = await fill(store, outbox, ["a", "b"], 4)
    broker = ScriptedBroker(ordered=True)
    called_with = lambda message: next(call for call in reversed(broker.calls) if message in call)  # noqa: E731
    broker.decide = lambda message: STORED if len(called_with(message)) == 1 else REFUSED
    await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key == added
    assert await rows(store, sa.select(dead_letter_table)) == []


async def test_policies_decide_for_the_key(store, outbox):
    """P3, H24: after a permanent failure hold and skip let the followers go on, park keeps them."""
    for policy, goes_on in ((OnFailure.HOLD, True), (OnFailure.SKIP, True), (OnFailure.PARK, False)):
        key = policy.value
        added = await fill(store, outbox, [key], 4)
        broker = ScriptedBroker()
        broker.decide = lambda message, bad=added[key][1]: REFUSED if message.id == bad else STORED
        relay = Relay(store, broker, settings=QUICK, policies=FailurePolicies(FailurePolicy(policy)))
        await relay.run_once()
        await relay.run_once()
        went = added[key][:1] + (added[key][2:] if goes_on else [])
        assert broker.first_of_key == {key: went}
        parked = [row.message_id for row in await rows(store, WAITING)]
        assert parked == ([] if goes_on else added[key][2:])


@BOTH
async def test_stop_hands_over_at_once_and_repeats_nothing(store, outbox, ordered):
    """P7, H37: a relay that stops lets the batch under way end; the next one starts without waiting for a lease."""
    added = await fill(store, outbox, [f"k{n}" for n in range(20)], 5)
    broker, dice = ScriptedBroker(ordered=ordered), Random(3)

    async def slow(_messages):
        await asyncio.sleep(dice.random() / 200)

    broker.before = slow
    settings = RelaySettings(batch=7, read_ahead=40, lease=timedelta(minutes=5))
    async with asyncio.timeout(120):
        while await ids(store):
            relay = Relay(store, broker, settings=settings)
            task = asyncio.ensure_future(relay.run())
            until_call = len(broker.calls) + dice.randrange(4)
            with suppress(TimeoutError):
                await until(lambda at=until_call: len(broker.calls) > at, within=1)
            relay.stop()
            await task
    assert broker.first_of_key == added
    assert set(broker.copies.values()) == {1}


async def test_stop_before_run_is_not_forgotten(store):
    """H37: a stop that comes before the task had its first turn ends it."""
    relay = Relay(store, ScriptedBroker(), settings=QUICK)
    task = asyncio.ensure_future(relay.run())
    relay.stop()
    await asyncio.wait_for(task, 120)


async def test_waiting_for_drained_ends_with_the_relay(store):
    """H142, H143: nobody waits for ever for a relay that has ended, nor takes its end for a cancellation."""

    class Broken(ScriptedBroker):
        def __getattribute__(self, name):
            if name == "capabilities" and object.__getattribute__(self, "calls") is not None:
                raise LookupError("misconfigured")
            return super().__getattribute__(name)

    relay = Relay(store, Broken(), settings=QUICK)
    waiting = asyncio.ensure_future(relay.drained())
    await asyncio.sleep(0)
    with pytest.raises(LookupError):
        await relay.run()
    with pytest.raises(ConfigurationError, match="stopped before everything was published"):
        await asyncio.wait_for(waiting, 120)


async def test_relays_joining_and_leaving_keep_the_order(store, outbox):
    """P1, P3, H15, H17, H18, H31: relays come, go and pause under load: order of first publications, nothing lost."""
    relays = 2 if store.is_sqlite else 4
    broker, dice, keys = ScriptedBroker(), Random(11), [f"k{n}" for n in range(20)]

    async def slow(_messages):
        await asyncio.sleep(dice.random() / 100)

    broker.before = slow
    settings = RelaySettings(batch=5, read_ahead=50, poll=timedelta(milliseconds=20), lease=timedelta(seconds=0.6))
    added = {key: [] for key in keys}
    writing = True

    async def write():
        for n in range(12):
            for key in keys:
                async with session_of(store) as session, session.begin():
                    added[key].append(outbox.add(session, Placed(order_id=key, n=n)))

    async def come_and_go(seed):
        own = Random(seed)
        while writing:
            relay = Relay(store, broker, settings=settings)
            task = asyncio.ensure_future(relay.run())
            await asyncio.sleep(own.random())
            relay.stop()
            await task

    async with asyncio.timeout(120):
        coming = [asyncio.ensure_future(come_and_go(seed)) for seed in range(relays)]
        await write()
        writing = False
        await asyncio.gather(*coming)
        await Relay(store, broker, settings=settings).run_once()
    assert broker.first_of_key == added
    assert await ids(store) == []


async def test_a_late_relay_takes_its_share_and_gives_it_back(store, outbox):
    """P3, H15: a second relay gets half of the buckets; when it leaves, the first has all and knows what is held."""
    broker = ScriptedBroker()
    settings = RelaySettings(poll=timedelta(milliseconds=20), lease=timedelta(seconds=3))
    bad, policies = set(), FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=300),) * 50)))
    broker.decide = lambda message: LOST if message.id in bad else STORED
    first = Relay(store, broker, settings=settings, policies=policies)
    second = Relay(store, broker, settings=settings, policies=policies)
    key = next(f"k{n}" for n in range(1000) if bucket_of(f"k{n}") > 200)  # its bucket goes to the second relay
    async with running(first):
        async with running(second):
            await until(lambda: first._serving and len(first._state.ownership.held) == 128)
            await until(lambda: second._serving and len(second._state.ownership.active) == 128)
            added = await fill(store, outbox, [key, "other"], 1)
            await drained(second)
        await until(lambda: first._serving and len(first._state.ownership.active) == 256)
        more = await fill(store, outbox, [key], 3)
        await drained(first)
    assert broker.first_of_key[key] == added[key] + more[key]


async def test_slow_lanes_do_not_stop_others(store, outbox):
    """H24, H36: a broker that confirms handling may take for ever over some messages; the others go on."""
    added = await fill(store, outbox, ["slow", "quick"], 40)
    broker, go = ScriptedBroker(patient=True), asyncio.Event()

    async def handle(messages):
        if messages[0].key == "slow":
            await go.wait()

    broker.before = handle
    relay = Relay(store, broker, settings=RelaySettings(batch=1, poll=timedelta(milliseconds=20)))
    async with running(relay):
        await until(lambda: len([m for m in broker.wire if m.key == "quick"]) == 40)
        go.set()
        await drained(relay)
    assert broker.first_of_key == added


async def test_memory_is_bounded(store, outbox):
    """H36, I16: with the broker away, no more than read_ahead rows are kept, however many wait."""
    await fill(store, outbox, [f"k{n}" for n in range(100)], 10)
    broker = ScriptedBroker()
    broker.decide = lambda _: AWAY
    relay = Relay(store, broker, settings=QUICK)
    async with running(relay):
        await until(lambda: len(broker.calls) > 3)
        assert len(relay._serving.backlog.unfinished.rows) <= QUICK.read_ahead
        broker.decide = lambda _: STORED
        await drained(relay)
    assert len(broker.wire) == 1000


@BOTH
async def test_memory_is_bounded_in_bytes(store, outbox, ordered):
    """H36, I16: large messages are read only as far as there is room for their bytes, and all go out in order."""
    settings = RelaySettings(batch=20, read_ahead_bytes=100_000, poll=timedelta(milliseconds=50))
    added = {"big": [], "small": []}
    for n in range(40):
        async with session_of(store) as session, session.begin():
            added["big"].append(outbox.add(session, Pictured(order_id="big", picture="x" * 10_000)))
            added["small"].append(outbox.add(session, Placed(order_id="small", n=n)))
    broker, most = ScriptedBroker(ordered=ordered), 0
    relay = Relay(store, broker, settings=settings)

    async def look(_messages):
        nonlocal most
        most = max(most, relay._serving.backlog.unfinished.bytes)

    broker.before = look
    async with asyncio.timeout(120):
        await relay.run_once()
    assert 10_000 < most <= 100_000 + 11_000
    assert broker.first_of_key == added
    assert set(broker.copies.values()) == {1}


@pytest.mark.parametrize("owned", [range(256), range(255)], ids=["all buckets", "some"])
async def test_a_page_ends_when_there_is_no_more_room(store, outbox, owned):
    """H36: a page has at most one row more than fits, and never none, so that a large message gets through."""
    async with session_of(store) as session, session.begin():
        added = [outbox.add(session, Pictured(order_id="big", picture="x" * 10_000)) for _ in range(8)]
    assert bucket_of("big") in owned
    pages = OutboxStore(store)
    for room, rows_read in ((1, 1), (10_000, 1), (25_000, 3), (10_000_000, 8)):
        page = await pages.page(Place(0), owned, 100, room)
        assert [row.message.id for row in page.rows] == added[:rows_read]
    page = await pages.page(Place(0), owned, 2, 10_000_000)
    assert [row.message.id for row in page.rows] == added[:2]
    await pages.close()


async def test_run_once_keeps_its_word(store, outbox):
    """P7, H30, H194: a relay that died owns all keys: what it has is published too, when its lease has run out."""
    dead = Leases(store, SCOPE, slots=BUCKETS, ttl=timedelta(milliseconds=700))
    await dead.join()
    assert len(await dead.acquire(1)) == BUCKETS
    added, broker = await fill(store, outbox, ["a", "b"], 2), ScriptedBroker()
    assert await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key == added
    assert await ids(store) == []


async def test_run_once_says_when_it_was_stopped(store, outbox, monkeypatch):
    """P7, H194: not all is published, so it does not say so."""
    monkeypatch.setattr(serving, "_GRACE", 0.2)
    added, broker = await fill(store, outbox, ["a"], 1), ScriptedBroker()
    relay = Relay(store, broker, settings=QUICK)

    async def stop(_messages):
        relay.stop()
        await asyncio.Event().wait()

    broker.before = stop
    assert not await relay.run_once()
    assert await ids(store) == added["a"]


async def test_a_hand_over_that_fails_is_made_again(store, outbox, monkeypatch):
    """P7, H30, H194: the link breaks as the buckets are given back: nobody waits for a lease because of that."""
    leave, tries = Leases.leave, 0

    async def broken_once(self):
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("connection reset")
        await leave(self)

    monkeypatch.setattr(Leases, "leave", broken_once)
    added, broker = await fill(store, outbox, ["a"], 1), ScriptedBroker()
    assert await Relay(store, broker, settings=QUICK).run_once()
    assert broker.first_of_key == added
    assert await rows(store, sa.select(member_table)) == []
    assert await rows(store, sa.select(lease_table).where(lease_table.c.owner.is_not(None))) == []


@pytest.mark.parametrize("keep_sent", [False, True])
async def test_a_position_that_is_another_messages_by_now_settles_nothing(store, outbox, keep_sent):
    """P1, H97: numbers were drawn again, after a failover; only a message that was confirmed is deleted."""
    await fill(store, outbox, ["k"], 2)
    relaying = OutboxStore(store, keep_sent=keep_sent)

    async def page():
        return (await relaying.page(Place(0), range(BUCKETS), 10, 1 << 20)).rows

    first, second = await page()
    await relaying.settle([replace(first, message=first.message._replace(id=new_id()))])
    assert await page() == [first, second]
    number = await relaying.settle([first])
    assert await page() == [second]
    await relaying.close()
    if number is not None:
        status = sa.text("SELECT pg_xact_status(CAST(:number AS xid8))")
        assert await store.read(lambda c: c.scalar(status, {"number": number})) == "committed"
