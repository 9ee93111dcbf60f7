"""What fails is tried again, timed in the database and in the order of its key, and ends in one place."""

import random
from collections import defaultdict
from datetime import timedelta

import pytest

from inbox.support import LONG, Echoed, Noted, note, quick, running
from txpatterns.errors import Retry
from txpatterns.inbox import Transaction
from txpatterns.retries import OnFailure, RetryLadder

pytestmark = pytest.mark.one_driver


@pytest.fixture
def fails():
    """How often the handler still fails for each number."""
    return defaultdict(int)


def noting(consumer, fails, error=ValueError):
    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if fails[event.number]:
            fails[event.number] -= 1
            raise error(f"number {event.number}")


async def test_a_message_that_always_fails_is_dead_after_seven_attempts_and_its_key_goes_on(world, fails):
    """P3, P7, H24, H106: seven attempts, a dead letter with its story, then the next message of the key."""
    consumer = world.consumer(policies=quick(7))
    noting(consumer, fails)
    fails[1] = 1000
    first, _, _ = world.put(*[Noted(book="a", number=number) for number in (1, 2, 3)])
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 2)
    assert await world.effects() == [("a", 2), ("a", 3)]
    (dead,) = await world.dead()
    assert (dead.message_id, dead.attempts, dead.reason, dead.consumer) == (first.id, 7, "exhausted", "app.noted")
    assert 1000 - fails[1] == 7
    assert world.told.counts["failed"] == 7
    assert world.told.counts["dead"] == 1
    assert await world.waiting() == []


async def test_a_stored_message_is_acknowledged_and_a_copy_of_it_is_not_handled(world, fails):
    """P2, H67: the broker is free of it at once; its copy finds it stored."""
    consumer = world.consumer(policies=quick(7, wait=3600))
    noting(consumer, fails)
    fails[1] = 1
    (message,) = world.put(Noted(book="a", number=1))
    world.broker.put(message)
    async with running(consumer):
        await world.broker.all_acked()
    (row,) = await world.waiting()
    assert (row.state, row.attempts, row.message_id, bytes(row.payload)) == ("retrying", 1, message.id, message.payload)
    assert row.due_at is not None
    assert "number 1" in row.error
    assert await world.effects() == []


@pytest.mark.parametrize("size", [64, pytest.param(400, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_first_effects_keep_the_order_of_a_key_through_failures(world, fails, seed, size):
    """P2, P3, P7: messages on eight keys fail up to five times each; every key's effects are in order, once.

    The soak's 400 messages fail a thousand times.
    """
    chance = random.Random(seed)
    consumer = world.consumer(policies=quick(7))
    noting(consumer, fails)
    events = [Noted(book=f"key-{number % 8}", number=number) for number in range(size)]
    for event in events:
        fails[event.number] = chance.choice((0, 1, 3, 4, 5))
    planned = sum(fails.values())
    assert planned > 2 * size
    async with running(consumer):
        for start in range(0, len(events), 20):
            world.put(*events[start : start + 20])
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == len(events), LONG)
    assert world.told.counts["failed"] == planned
    found = defaultdict(list)
    for key, number in await world.effects():
        found[key].append(number)
    assert found == {f"key-{k}": list(range(k, size, 8)) for k in range(8)}
    assert (await world.waiting(), await world.dead()) == ([], [])


async def test_a_parked_key_waits_for_an_operator(world, fails):
    """P3, P7: after the dead letter its key's messages wait, those that came before it and those after it."""
    consumer = world.consumer(policies=quick(2, on_failure=OnFailure.PARK))
    noting(consumer, fails)
    fails[1] = 2
    world.put(*[Noted(book="a", number=number) for number in (1, 2)], Noted(book="b", number=9))
    async with running(consumer):
        await world.told.until(lambda counts: counts["dead"] == 1)
        world.put(Noted(book="a", number=3))
        await world.broker.all_acked()
        assert await world.effects() == [("b", 9)]
        assert [row.state for row in await world.waiting()] == ["parked", "behind", "behind"]
        assert await world.stranded() == []
        assert await consumer.inbox.release("app.noted", "notes", "a")
        await world.told.until(lambda counts: counts["handled"] == 3)
        assert not await consumer.inbox.release("app.noted", "notes", "a")
    assert await world.effects() == [("b", 9), ("a", 2), ("a", 3)]


async def test_a_parked_key_is_remembered_by_other_consumers(world, fails):
    """P3: also where nothing else of the key was there when its message died, at its first attempt."""
    fails[1] = 1
    for number in (1, 2):
        consumer = world.consumer(policies=quick(1, on_failure=OnFailure.PARK))
        noting(consumer, fails)
        world.put(Noted(book="a", number=number))
        async with running(consumer):
            await world.broker.all_acked()
    assert await world.effects() == []
    assert [(row.state, row.due_at) for row in await world.waiting()] == [("parked", None), ("behind", None)]
    assert len(await world.dead()) == 1


async def test_a_skipped_message_is_tried_again_outside_its_key(world, fails):
    """P3: the key does not wait; the order is given up, as the policy says."""
    consumer = world.consumer(policies=quick(3, on_failure=OnFailure.SKIP, wait=3600))
    noting(consumer, fails)
    fails[1] = 1
    world.put(*[Noted(book="a", number=number) for number in (1, 2, 3)])
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 2), ("a", 3)]
    assert [row.state for row in await world.waiting()] == ["skipped"]


async def test_handlers_say_when_and_how_often_to_try_again(world, fails):
    """P7: `Retry(after=…)`, ladders for some errors, and errors that are permanent."""
    consumer = world.consumer(policies=quick(7))
    attempts = defaultdict(int)

    @consumer.on(Noted, permanent=[KeyError], retries={OSError: RetryLadder((timedelta(milliseconds=1),))})
    async def noted(event: Noted, tx: Transaction) -> None:
        attempts[event.book] += 1
        match event.book:
            case "permanent":
                raise KeyError("never")
            case "short":
                raise ConnectionError("an OSError")
            case "later":
                raise Retry("come back", after=timedelta(hours=1))

    world.put(*[Noted(book=book, number=1) for book in ("permanent", "short", "later")])
    async with running(consumer):
        await world.told.until(lambda counts: counts["dead"] == 2 and counts["failed"] == 4)
    assert attempts == {"permanent": 1, "short": 2, "later": 1}
    assert sorted((row.key, row.attempts, row.reason) for row in await world.dead()) == [
        ("permanent", 1, "permanent"),
        ("short", 2, "exhausted"),
    ]
    (row,) = await world.waiting()
    now = world.database.clock.now()
    assert timedelta(minutes=50) < row.due_at - now < timedelta(minutes=70)


async def test_due_retries_are_made_in_one_pass_without_running(world, fails):
    """P7: what the test kit's drain needs: one pass makes exactly what is due."""
    consumer = world.consumer(policies=quick(7, wait=0.001), retry_interval=timedelta(hours=1))
    noting(consumer, fails)
    fails[1] = 1
    world.put(*[Noted(book="a", number=number) for number in (1, 2, 3)])
    async with running(consumer):
        await world.broker.all_acked()
    await world.settled(consumer)
    assert await consumer.retry_due() == 0
    assert consumer.in_flight == 0
    assert await world.effects() == [("a", 1), ("a", 2), ("a", 3)]


async def test_a_waiting_message_whose_handler_takes_it_no_longer_becomes_a_dead_letter(world, fails):
    """P7, H24: an event that was taken away from its handler does not wait for ever."""
    consumer = world.consumer(policies=quick(7), retry_interval=timedelta(hours=1))
    noting(consumer, fails)
    fails[1] = 1
    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    later = world.consumer(policies=quick(7))

    @later.on(Echoed, name="noted")
    async def echoed(event: Echoed, tx: Transaction) -> None:
        raise AssertionError("it takes another event")

    await world.settled(later)
    assert [(row.reason, row.attempts) for row in await world.dead()] == [("undecodable", 2)]
    assert await world.waiting() == []


async def test_a_wait_beyond_every_calendar_is_cut(world):
    """P7: a moment that the database cannot hold is no outage, for which all handlers would wait."""
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if event.book == "a":
            raise Retry(after=timedelta.max)
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1), Noted(book="b", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    (row,) = await world.waiting()
    assert row.attempts == 1
    assert row.due_at is not None
    assert await world.effects() == [("b", 1)]
