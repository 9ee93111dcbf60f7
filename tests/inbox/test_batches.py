"""Handlers that take a list: one transaction for what is there, each effect once, and a batch that fails is halved."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from database.cancelling import cancelled_at
from inbox.interleaving import opened, quiet
from inbox.support import TIMEOUT, Echoed, FakeDelivery, Noted, note, prepared, quick, running
from rig.waiting import until
from txpatterns import App
from txpatterns.coordination.leases import Census
from txpatterns.correlation import CAUSATION_ID, CORRELATION_ID
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, HandlerDefinitionError, Reject
from txpatterns.inbox import BatchTransaction, Handlers, SyncBatchTransaction, SyncTransaction, Transaction
from txpatterns.inbox.batches import Batches, Item, _Group
from txpatterns.inbox.entries import entry_of
from txpatterns.inbox.handlers import Options
from txpatterns.messages import derived_id, milliseconds_of
from txpatterns.outbox.schema import outbox_table
from txpatterns.retries import OnFailure


def notes(events):
    return [note(event.book, event.number) for event in events]


def registered(consumer, batches, *, batch=100, kind="async", **options):
    """Register a handler that leaves an effect for each event, and what it was given in ``batches``."""

    if kind == "async":

        @consumer.on(Noted, batch=batch, **options)
        async def noted(events: list[Noted], tx: BatchTransaction) -> None:
            batches.append([(event.book, event.number) for event in events])
            for statement in notes(events):
                await tx.session.execute(statement)

    else:

        @consumer.on(Noted, batch=batch, **options)
        def noted(events: Sequence[Noted], tx: SyncBatchTransaction) -> None:
            batches.append([(event.book, event.number) for event in events])
            for statement in notes(events):
                tx.session.execute(statement)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_is_there_is_handled_in_one_transaction(world, kind):
    """P2, P3, H296: messages of many keys in one call, those of a key next to each other and in their order; one insert
    for all their ids."""
    consumer, batches, said = world.consumer(), [], []
    registered(consumer, batches, kind=kind)
    engine = world.database.sync_engine if kind == "plain" else world.database.engine.sync_engine

    @sa.event.listens_for(engine, "before_cursor_execute")
    def before(_connection, _cursor, statement, *_rest):
        said.append(statement)

    world.put(*[Noted(book=book, number=number) for number in range(5) for book in "abcdef"])
    async with running(consumer):
        await world.broker.all_acked()
    assert batches == [[(book, number) for book in "abcdef" for number in range(5)]]
    assert await world.effects() == batches[0]
    assert len(await world.inbox()) == 30
    assert sum("INTO " in statement and "txp_inbox" in statement for statement in said) == 1
    assert world.told.counts["handled"] == 30


async def test_what_is_handled_already_is_left_out(world):
    """P2, H43, H296: what another process has handled, what is there twice, and the same once more."""
    consumer, batches = world.consumer(), []
    registered(consumer, batches)
    messages = [world.message(Noted(book="a", number=number)) for number in range(4)]
    async with AsyncSession(world.database.engine) as session, session.begin():
        assert await consumer.inbox.aclaim(session, "app.noted", messages[1].id)
    world.broker.put(messages[0], messages[1], messages[2], messages[0], messages[3], messages[2])
    async with running(consumer):
        await world.broker.all_acked()
        world.broker.put(*messages)
        await world.broker.all_acked()
    assert batches == [[("a", 0), ("a", 2), ("a", 3)]]
    assert await world.effects() == batches[0]
    assert (world.told.counts["handled"], world.told.counts["duplicate"]) == (3, 7)
    assert (await world.waiting(), await world.dead()) == ([], [])


async def test_a_batch_is_never_larger_than_the_handler_takes(world):
    """H296: a key with more messages than a batch has, beside keys with a few, each in order."""
    consumer, batches = world.consumer(), []
    registered(consumer, batches, batch=7)
    given = [("a", n) for n in range(20)] + [(book, n) for n in range(3) for book in "bcdefg"]
    world.put(*[Noted(book=book, number=number) for book, number in given])
    async with running(consumer):
        await world.broker.all_acked()
    assert max(map(len, batches)) == 7
    effects = await world.effects()
    assert sorted(effects) == sorted(given)
    assert all([n for b, n in effects if b == book] == [n for b, n in given if b == book] for book in "abcdefg")


async def test_it_does_not_wait_for_more(world):
    """H296: one message that is there is handled by itself."""
    consumer, batches = world.consumer(), []
    registered(consumer, batches)
    async with running(consumer):
        for number in range(2):
            world.put(Noted(book="a", number=number))
            await world.broker.all_acked()
    assert batches == [[("a", 0)], [("a", 1)]]


async def test_one_message_for_a_batch_and_for_a_handler_of_its_own(world):
    """P2, P3: each has its effect once, and in order, before the message is acknowledged."""
    consumer, batches, alone = world.consumer(), [], []
    registered(consumer, batches)

    @consumer.on(Noted)
    async def single(event: Noted, tx: Transaction) -> None:
        alone.append((event.book, event.number))
        await tx.session.execute(note(event.book, event.number, "single"))

    @consumer.on(Echoed)
    async def echoed(event: Echoed, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number, "echoed"))

    given = [(book, number) for number in range(3) for book in "ab"]
    world.put(*[kind(book=book, number=number) for book, number in given for kind in (Noted, Echoed)])
    async with running(consumer):
        await world.broker.all_acked()
    assert sorted(alone) == sorted(pair for batch in batches for pair in batch) == sorted(given)
    assert [n for b, n in alone if b == "a"] == [0, 1, 2]
    assert world.told.counts["handled"] == 18


class Noting(Noted, type="note.noting"):
    """Another event of the same topic and key."""


async def test_two_events_of_one_handler_come_in_the_same_batch(world):
    """P3: a projection gets the events of a key in their order, whatever their classes."""
    consumer, batches = world.consumer(), []

    async def project(events: Sequence[Noted | Noting], tx: BatchTransaction) -> None:
        batches.append([(type(event), event.number) for event in events])

    consumer.on(Noted, batch=10)(project)
    consumer.on(Noting, batch=10)(project)
    world.put(*[kind(book="a", number=number) for number in range(2) for kind in (Noted, Noting)])
    async with running(consumer):
        await world.broker.all_acked()
    assert batches == [[(Noted, 0), (Noting, 0), (Noted, 1), (Noting, 1)]]


async def test_what_it_emits_comes_from_one_of_its_messages(world):
    """P2, H296: with an id of its own, the story of its cause, and only if the batch commits."""
    consumer, refused = world.consumer(policies=quick(3)), []

    @consumer.on(Noted, batch=10)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        for event, message in zip(events, tx.messages, strict=True):
            assert f'"number":{event.number}' in message.payload.decode().replace(" ", "")
            for number in range(2):
                tx.emit(Echoed(book=event.book, number=number), cause=message)
        try:
            tx.emit(Echoed(book="a", number=3), cause=message._replace(id="another"))
        except ConfigurationError as error:
            refused.append(str(error))

    messages = world.put(*[Noted(book=book, number=number) for number in range(2) for book in "ab"])
    async with running(consumer):
        await world.broker.all_acked()
    rows = await world.rows(outbox_table)
    wanted = {
        derived_id("app.noted", message.id, str(number), milliseconds_of(message.id)): message
        for message in messages
        for number in range(2)
    }
    assert {row.message_id for row in rows} == wanted.keys()
    for row in rows:
        cause = wanted[row.message_id].id
        assert f'"{CORRELATION_ID}": "{cause}"' in row.headers
        assert f'"{CAUSATION_ID}": "{cause}"' in row.headers
    assert len(refused) == 1
    assert "none of this batch's messages" in refused[0]


# Failures


def failing(consumer, batches, poison, error=ValueError, **options):
    """Register a handler that leaves its effects, and raises at the poison."""

    @consumer.on(Noted, batch=100, **options)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        batches.append([(event.book, event.number) for event in events])
        for statement in notes(events):
            await tx.session.execute(statement)
        if found := [event for event in events if (event.book, event.number) in poison]:
            raise error(f"poison {found[0].number}")


async def test_a_batch_that_fails_is_halved_until_the_poison_is_alone(world):
    """P2, P3, P7, H297: the others commit, without an attempt of theirs being used up; what fails alone waits for its
    next attempt, and its key waits behind it."""
    consumer, batches = world.consumer(policies=quick(3, wait=1000)), []
    failing(consumer, batches, {("c", 1)})
    given = [(book, number) for book in "abcdefgh" for number in range(4)]
    world.put(*[Noted(book=book, number=number) for book, number in given])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["idle"] > 0)
    assert [batch for batch in batches if ("c", 1) in batch][-1] == [("c", 1)]
    assert len(batches) <= 2 * 6
    waiting = [(row.key, row.state, row.attempts) for row in await world.waiting()]
    assert waiting == [("c", "retrying", 1), ("c", "behind", 0), ("c", "behind", 0)]
    effects = await world.effects()
    assert sorted(effects) == [pair for pair in given if pair not in {("c", 1), ("c", 2), ("c", 3)}]
    assert world.told.counts["failed"] == 1
    assert len(world.broker.acked) == 32


async def test_later_attempts_are_made_alone_and_then_the_key_goes_on(world):
    """P2, P3, P7, H297: by the ladder of a single handler, in the order of the key, in lists of one."""
    consumer, batches = world.consumer(policies=quick(4)), []
    poison = {("a", 1)}

    def twice(text: str) -> Exception:
        if batches.count([("a", 1)]) == 2:
            poison.clear()
        return ValueError(text)

    failing(consumer, batches, poison, twice)
    world.put(*[Noted(book=book, number=number) for book in "ab" for number in range(4)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.settled(consumer)
    assert [n for b, n in await world.effects() if b == "a"] == [0, 1, 2, 3]
    assert sorted(await world.effects()) == [(book, number) for book in "ab" for number in range(4)]
    assert [each for batch in batches for each in batch if each[0] == "a"][-3:] == [("a", 1), ("a", 2), ("a", 3)]
    assert [len(batch) for batch in batches if ("a", 1) in batch][-2:] == [1, 1]
    assert await world.waiting() == []


@pytest.mark.parametrize("means", ["reject", "permanent", "exhausted"])
async def test_what_cannot_succeed_ends_as_a_dead_letter_alone(world, means):
    """P7, H22, H297: a reject, a permanent error or the end of the ladder concerns the one message; its key goes on."""
    consumer, batches = world.consumer(policies=quick(3)), []
    error = Reject if means == "reject" else LookupError
    failing(consumer, batches, {("a", 1), ("b", 0)}, error, permanent=[LookupError] if means == "permanent" else [])
    world.put(*[Noted(book=book, number=number) for book in "abc" for number in range(3)])
    async with running(consumer):
        await world.broker.all_acked()
        await world.settled(consumer)
    dead = await world.dead()
    assert [(row.key, row.attempts, row.reason) for row in sorted(dead, key=lambda row: row.key)] == [
        (key, 3 if means == "exhausted" else 1, {"reject": "rejected"}.get(means, means)) for key in "ab"
    ]
    effects = await world.effects()
    assert sorted(effects) == [("a", 0), ("a", 2), ("b", 1), ("b", 2), ("c", 0), ("c", 1), ("c", 2)]
    assert [n for b, n in effects if b == "b"] == [1, 2]
    assert await world.waiting() == []


@pytest.mark.parametrize("policy", [OnFailure.PARK, OnFailure.SKIP])
async def test_the_topic_s_policy_decides_about_the_key_of_a_poison(world, policy):
    """P3, P7, H297: parked, what follows waits for an operator; skipped, it goes on, in the next batch."""
    attempts = 1 if policy is OnFailure.PARK else 3
    consumer, batches = world.consumer(policies=quick(attempts, on_failure=policy, wait=1000)), []
    failing(consumer, batches, {("a", 1)})
    world.put(*[Noted(book=book, number=number) for book in "ab" for number in range(4)])
    async with running(consumer):
        await world.broker.all_acked()
    waiting = [(row.state, row.key) for row in await world.waiting()]
    effects = await world.effects()
    if policy is OnFailure.PARK:
        assert waiting == [("parked", "a"), ("behind", "a"), ("behind", "a")]
        assert [n for b, n in effects if b == "a"] == [0]
        assert len(await world.dead()) == 1
    else:
        assert waiting == [("skipped", "a")]
        assert [n for b, n in effects if b == "a"] == [0, 2, 3]
    assert [n for b, n in effects if b == "b"] == [0, 1, 2, 3]


async def test_a_batch_that_takes_too_long_is_halved_as_well(world):
    """P7, H297: the time is that of each call."""
    consumer, stuck = world.consumer(policies=quick(1)), []

    @consumer.on(Noted, batch=10, timeout=timedelta(seconds=1))
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        if any(event.number == 2 for event in events):
            stuck.append(len(events))
            await asyncio.Event().wait()
        for statement in notes(events):
            await tx.session.execute(statement)

    world.put(*[Noted(book=str(number), number=number) for number in range(4)])
    async with running(consumer):
        await world.broker.all_acked()
    assert sorted(n for _, n in await world.effects()) == [0, 1, 3]
    assert stuck == [4, 2, 1]
    (dead,) = await world.dead()
    assert "did not end within 0:00:01" in dead.error


@pytest.mark.parametrize("order", ["0101", "010", "0110", "001", "1001", "01x", "0x1", "x01"])
async def test_what_is_left_out_of_a_batch_that_fails_does_not_hide_the_poison(world, order):
    """P2, P3, H316: the same twice, behind or in front of the poison (1), and what was handled before (x)."""
    consumer, batches = world.consumer(policies=quick(1)), []
    failing(consumer, batches, {("a", 1), ("b", 1)})
    messages = {(book, name): world.message(Noted(book=book, number=int(name, 16))) for book in "ab" for name in "01e"}
    async with AsyncSession(world.database.engine) as session, session.begin():
        for book in "ab":
            assert await consumer.inbox.aclaim(session, "app.noted", messages[book, "e"].id)
    world.broker.put(*[messages[book, name] for book in "ab" for name in order.replace("x", "e")])
    async with running(consumer):
        await world.broker.all_acked()
        await world.settled(consumer)
    assert sorted(await world.effects()) == [("a", 0), ("b", 0)]
    assert [row.reason for row in await world.dead()] == ["exhausted"] * 2
    assert len(batches) <= 2 * 4
    assert await world.waiting() == []


async def test_what_the_database_refuses_is_found_by_halving(world):
    """P2, H297: a unique row of the application that two messages want: the second fails alone."""
    consumer = world.consumer(policies=quick(1))
    await world.database.transact(lambda c: c.exec_driver_sql("CREATE UNIQUE INDEX one_number ON effect (number)"))
    batches = []
    registered(consumer, batches)
    world.put(*[Noted(book=book, number=number) for book, number in [("a", 1), ("b", 2), ("c", 1), ("d", 4)]])
    async with running(consumer):
        await world.broker.all_acked()
    assert sorted(await world.effects()) == [("a", 1), ("b", 2), ("d", 4)]
    assert [row.key for row in await world.dead()] == ["c"]


async def test_followers_of_a_waiting_message_are_in_no_batch(world):
    """P3, H66, H297: while an earlier message of a key waits, those that come later join it in the database."""
    consumer, batches = world.consumer(policies=quick(3, wait=1000)), []
    failing(consumer, batches, {("a", 0)})
    async with running(consumer):
        world.put(*[Noted(book="a", number=number) for number in range(2)])
        await world.broker.all_acked()
        batches.clear()
        world.put(*[Noted(book=book, number=number) for number in range(2, 4) for book in "ab"])
        await world.broker.all_acked()
    assert batches == [[("b", 2), ("b", 3)]]
    assert [(row.key, row.state) for row in await world.waiting()] == [("a", "retrying"), *[("a", "behind")] * 3]


async def test_a_batch_that_commits_by_itself_is_half_done(postgres_world):
    """P2, H297: none of its messages is handled again, and each is shown to an operator."""
    world, runs = postgres_world, []
    consumer = world.consumer(policies=quick(3))

    @consumer.on(Noted, batch=10)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        runs.append(len(events))
        for statement in notes(events):
            await tx.session.execute(statement)
        await tx.session.commit()
        raise ValueError("too late")

    world.put(*[Noted(book="a", number=number) for number in range(3)])
    async with running(consumer):
        await world.broker.all_acked()
    assert runs == [3]
    assert [row.reason for row in await world.dead()] == ["half done"] * 3
    assert len(await world.effects()) == len(await world.inbox()) == 3


async def test_the_end_in_the_middle_of_a_batch_leaves_nothing_behind(world):
    """P2, P7, H6, H297: cut off at the end of its time, nothing of it is done, stored or acknowledged; the next run has
    all of it."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    def made():
        consumer = world.consumer(stop_within=timedelta(milliseconds=50))

        @consumer.on(Noted, batch=10)
        async def noted(events: list[Noted], tx: BatchTransaction) -> None:
            for statement in notes(events):
                await tx.session.execute(statement)
            begun.set()
            await go_on.wait()

        return consumer

    messages = world.put(*[Noted(book=book, number=number) for book in "ab" for number in range(2)])
    async with running(made()):
        await begun.wait()
    assert (await world.effects(), await world.inbox(), await world.waiting()) == ([], [], [])
    assert world.broker.acked == []
    go_on.set()
    world.broker.open.clear()
    world.broker.put(*messages)
    async with running(made()):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert await world.dead() == []


async def test_a_link_that_breaks_in_a_batch_costs_no_attempt(postgres_world):
    """P2, P7, H297: the batch is handled again when the database is back, as it was, and not halved."""
    world, sizes = postgres_world, []
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted, batch=10)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        sizes.append(len(events))
        for statement in notes(events):
            await tx.session.execute(statement)
        if len(sizes) == 1:
            await tx.session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    world.put(*[Noted(book=book, number=number) for book in "ab" for number in range(2)])
    async with running(consumer):
        await world.broker.all_acked()
    assert sizes == [4, 4]
    assert len(await world.effects()) == 4
    assert (await world.dead(), world.told.counts["failed"]) == ([], 0)


async def test_a_batch_that_meets_another_s_deadlock_runs_again_as_it_was(postgres_world):
    """H45, H297: what the database gave up for another's sake is nobody's failure: nothing is halved or counted."""
    world, sizes = postgres_world, []
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted, batch=10)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        sizes.append(len(events))
        if len(sizes) < 3:
            raise_deadlock = "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$"
            await tx.session.execute(sa.text(raise_deadlock))
        for statement in notes(events):
            await tx.session.execute(statement)

    world.put(*[Noted(book="a", number=number) for number in range(4)])
    async with running(consumer):
        await world.broker.all_acked()
    assert sizes == [4, 4, 4]
    assert (len(await world.effects()), world.told.counts["failed"]) == (4, 0)


async def test_what_nobody_foresaw_makes_each_message_go_alone(world, monkeypatch):
    """P2, P3, H201: a batch that breaks in the library's own hands harms none of its messages."""
    consumer, batches = world.consumer(), []
    registered(consumer, batches)
    deal = Batches.deal

    async def broken(self, items):
        await deal(self, items[:1])
        raise LookupError("nobody foresaw this")

    monkeypatch.setattr(Batches, "deal", broken)
    world.put(*[Noted(book="a", number=number) for number in range(3)])
    async with running(consumer):
        await world.broker.all_acked()
    assert batches == [[("a", 0)], [("a", 1)], [("a", 2)]]
    assert await world.effects() == [("a", 0), ("a", 1), ("a", 2)]
    assert await world.dead() == []


async def test_a_batch_cancelled_at_every_await_leaves_nothing_open(any_database):
    """P2, H6, H142: its connection serves nobody else, and afterwards each message has its one effect."""
    engine = create_async_engine(any_database, pool_size=1, max_overflow=0)
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(3))
        registered(consumer, [])
        consumer.check()
        consuming, (handler,) = consumer._consuming, consumer.handlers
        number, reached = 0, True
        while reached:
            events = [Noted(book="a", number=2 * number), Noted(book="a", number=2 * number + 1)]
            messages = [world.message(event) for event in events]
            pairs = zip(events, messages, strict=True)
            items = [Item(handler, event, entry_of(handler.consumer, message)) for event, message in pairs]
            reached = await cancelled_at(partial(consuming.batches._handle, [_Group(items)]), number)
            _, rest = consuming.runs.begin([FakeDelivery(message, False, world.broker) for message in messages])
            async with asyncio.timeout(TIMEOUT):
                await rest()
            assert engine.pool.checkedout() == 0
            number += 1
        await engine.dispose()
        assert sorted(n for _, n in await world.effects()) == list(range(2 * number))
        assert (await world.dead(), await world.waiting()) == ([], [])
    assert number > 5


# Other processes


class Taking:
    """A transaction that claims several messages at once."""

    def __init__(self, world, session, messages):
        self.connection = session.connection
        self.claims = world.consumer()._consuming.processing.lanes.claims
        self.entries = [entry_of("app.noted", message) for message in messages]
        self.taken = None

    async def take(self):
        self.taken = await self.connection.run_sync(self.claims.take_all, self.entries, None)

    async def commit(self):
        await self.connection.commit()

    async def roll_back(self):
        await self.connection.rollback()


async def test_processes_with_some_of_the_same_messages_do_not_block_each_other_for_good(postgres_world):
    """P2, H44, H298: while a third one holds the middle of them, two claim the same in opposite orders. Both wait; then
    one has what the third gave up, and the other waits for that one's end: there is no deadlock."""
    world = postgres_world
    messages = [world.message(Noted(book=str(number), number=number), f"message-{number}") for number in range(5)]
    engine = world.database.engine
    async with engine.connect() as watcher, opened(engine, *["READ COMMITTED"] * 3) as sessions:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        given = (messages[2:3], messages, messages[::-1])
        third, one, other = (Taking(world, s, m) for s, m in zip(sessions, given, strict=True))
        sessions[0].ask(third.take)
        await quiet(sessions, watcher)
        for session, party in zip(sessions[1:], (one, other), strict=True):
            session.ask(party.take)
            await quiet(sessions, watcher)
        assert [session.busy for session in sessions] == [False, True, True]
        sessions[0].ask(third.roll_back)
        await quiet(sessions, watcher)
        assert [session.busy for session in sessions] == [False, False, True]
        sessions[1].ask(one.commit)
        await quiet(sessions, watcher)
        assert (len(one.taken), other.taken) == (5, set())


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_batch_waits_for_another_process_that_has_one_of_its_messages(postgres_world, ending):
    """P2, P3, H44, H66, H296: a process that was paused holds the second message of a key. If it commits, that one is
    left out; if it does not, it is handled here, in its place."""
    world, batches = postgres_world, []
    consumer = world.consumer()
    registered(consumer, batches)
    messages = [world.message(Noted(book="a", number=number)) for number in range(4)]
    async with AsyncSession(world.database.engine) as paused:
        assert await consumer.inbox.aclaim(paused, "app.noted", messages[1].id)
        world.broker.put(*messages)
        async with running(consumer):
            await until(lambda: blocked(world), "the batch to wait")
            assert batches == []
            await (paused.commit() if ending == "commit" else paused.rollback())
            await world.broker.all_acked()
    assert batches == [[("a", number) for number in range(4) if number != 1 or ending == "rollback"]]
    assert world.told.counts["duplicate"] == (ending == "commit")


async def blocked(world):
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return await world.database.read(lambda connection: connection.exec_driver_sql(waits).scalar_one())


async def test_after_a_death_a_repeated_message_does_not_clear_its_key(world):
    """P7, H24, H299: the dead process had handled the first, and nobody heard of it; so it died in the second. The
    attempt at that one is written before it begins."""
    consumer, seen = world.consumer(), []

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        seen.append([(row.message_id == tx.message.id, row.attempts) for row in await world.waiting()])

    messages = [world.message(Noted(book="a", number=number)) for number in range(3)]
    async with AsyncSession(world.database.engine) as session, session.begin():
        await consumer.inbox.aclaim(session, "app.noted", messages[0].id)
    async with running(consumer):
        await world.told.until(lambda counts: counts["idle"] > 0)
        consumer._consuming._suspicion.hear(Census(live=1, stale=1))
        world.broker.put(*messages)
        await world.broker.all_acked()
    assert seen == [[(True, 1)], []]


# Definition


class Text:
    """No event."""


async def of_list(events: list[Noted], tx: BatchTransaction) -> None: ...
async def of_sequence(events: Sequence[Noted | Echoed], tx: BatchTransaction) -> None: ...
async def of_any_event(events: "list[Noted] | None", tx: BatchTransaction) -> None: ...
async def bare(events, tx): ...
def plain(events: list[Noted], tx: SyncBatchTransaction) -> None: ...
async def of_one(event: Noted, tx: Transaction) -> None: ...
async def of_tuple(events: tuple[Noted, ...], tx: BatchTransaction) -> None: ...
async def of_others(events: list[Echoed], tx: BatchTransaction) -> None: ...
async def of_texts(events: list[Text], tx: BatchTransaction) -> None: ...
async def of_a_dict(events: dict[str, Noted], tx: BatchTransaction) -> None: ...
async def single_transaction(events: list[Noted], tx: Transaction) -> None: ...
async def of_another_thread(events: list[Noted], tx: SyncBatchTransaction) -> None: ...
def plain_with_async(events: list[Noted], tx: BatchTransaction) -> None: ...
async def without_transaction(events: list[Noted]) -> None: ...


@pytest.mark.parametrize("function", [of_list, of_sequence, of_any_event, bare, plain])
def test_functions_that_take_a_list_are_registered(function):
    """UX: a list, or what a list is, of the event, a base of it or a union with it."""
    handler = Handlers("app").add(Noted, function, options=Options(batch=100))
    assert (handler.batch, handler.is_async) == (100, function is not plain)


@pytest.mark.parametrize(
    ("function", "said", "fix"),
    [
        (of_one, "takes Noted, but with batch= it is called with a list of Noted", "list[Noted]"),
        (of_tuple, "a list of Noted", "list[Noted]"),
        (of_others, "takes list[inbox.support.Echoed]", "list[Noted]"),
        (of_texts, "a list of Noted", "list[Noted]"),
        (of_a_dict, "a list of Noted", "list[Noted]"),
        (single_transaction, "takes BatchTransaction, not Transaction", "async def takes BatchTransaction"),
        (of_another_thread, "takes BatchTransaction, not SyncBatchTransaction", "def takes SyncBatchTransaction"),
        (plain_with_async, "takes SyncBatchTransaction, not BatchTransaction", "def takes SyncBatchTransaction"),
        (without_transaction, r"(events, tx)", "HandlerDefinition"),
    ],
)
def test_functions_that_take_no_list_are_refused(function, said, fix):
    """UX: when they are registered, with what to write instead."""
    with pytest.raises(HandlerDefinitionError) as refused:
        Handlers("app").add(Noted, function, options=Options(batch=100))
    assert said in str(refused.value)
    assert fix in str(refused.value) or fix == "HandlerDefinition"


def test_a_list_without_a_batch_is_refused_with_the_word_that_is_missing():
    """UX: the fix names batch=."""
    with pytest.raises(HandlerDefinitionError, match=r"on\(Noted, batch=100\)"):
        Handlers("app").add(Noted, of_list)


@pytest.mark.parametrize("batch", [0, 1, 1001, -1, True, 2.5, "100"])
def test_the_size_is_a_whole_number_from_2_to_1000(batch):
    """UX: anything else is refused where it is given."""
    app = App("app")
    with pytest.raises(HandlerDefinitionError, match="whole number from 2 to 1000"):
        app.on(Noted, batch=batch)


def test_one_name_has_one_size_of_batches():
    """P3: two events of one handler come in the same batches, so they cannot have two sizes."""
    handlers = Handlers("app")
    handlers.add(Noted, bare, options=Options(batch=100))
    for options in (Options(batch=10), Options(), Options(batch=100, timeout=timedelta(seconds=1))):
        with pytest.raises(HandlerDefinitionError, match="another batch= or timeout="):
            handlers.add(Echoed, bare, options=options)
    handlers.add(Echoed, bare, options=Options(batch=100))


async def test_a_plain_handler_beside_one_of_batches(world):
    """P2: a plain single handler and a plain one of batches run on the same engine."""
    consumer, batches = world.consumer(), []
    registered(consumer, batches, kind="plain")

    @consumer.on(Echoed)
    def echoed(event: Echoed, tx: SyncTransaction) -> None:
        tx.session.execute(note(event.book, event.number, "echoed"))

    world.put(Noted(book="a", number=1), Echoed(book="a", number=2), Noted(book="b", number=3))
    async with running(consumer):
        await world.broker.all_acked()
    assert sorted(await world.effects()) == [("a", 1), ("a", 2), ("b", 3)]
