"""Dead letters that could not be handled: handled again or dropped by an operator while consumers run."""

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from inbox.support import Echoed, Noted, note, quick, running
from txpatterns.admin import Deed, Reader, drop, find_at_handlers, find_letters, in_order, list_inbox, read_audit, retry
from txpatterns.errors import LetterKept, Reject
from txpatterns.inbox import Consumer
from txpatterns.inbox.transaction import Transaction
from txpatterns.retries import OnFailure

pytestmark = pytest.mark.one_driver

DEED = Deed("tester", "mended")


@pytest.fixture
def bad():
    """The numbers that the handler refuses."""
    return set()


def noting(consumer: Consumer, bad):
    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if event.number in bad:
            raise Reject("not now")
        await tx.session.execute(note(event.book, event.number))


def reader(world, consumer):
    return Reader(consumer.handlers, world.registry)


async def letters(world):
    return in_order(await world.database.read(find_letters))


async def die(world, consumer, bad, numbers, policy=OnFailure.HOLD):
    """Handle the numbers of one key, of which the bad ones become dead letters."""
    bad.update(number for number in numbers if number < 0)
    messages = world.put(*[Noted(book="a", number=number) for number in numbers])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["dead"] >= 1)
        await world.told.until(lambda counts: counts["dead"] + counts["handled"] >= 1)
    return messages


async def test_it_is_handled_once_and_with_all_its_attempts(world, bad):
    """P2, P4, H250: the dead letter is gone, the effect is there once, and so it stays should the broker repeat it."""
    consumer = world.consumer(policies=quick(2))
    noting(consumer, bad)
    (message,) = await die(world, consumer, bad, [-1])
    (letter,) = await letters(world)
    bad.clear()
    await retry(world.database, reader(world, consumer), letter.id, DEED)
    (waiting,) = await world.database.read(list_inbox)
    assert (waiting.message_id, waiting.state, waiting.attempts) == (message.id, "retrying", 0)
    assert "not now" in waiting.error
    await world.settled(consumer)
    world.broker.put(message, redelivered=True)
    async with running(consumer):
        await world.broker.all_acked()
    assert (await world.effects(), await world.dead(), await world.waiting()) == ([("a", -1)], [], [])
    (entry,) = await world.database.read(read_audit)
    assert (entry.action, entry.consumer, entry.message_id) == ("retry", "app.noted", message.id)


async def test_a_second_death_is_a_dead_letter_again(world, bad):
    """P4, H250: what was not mended is not lost either."""
    consumer = world.consumer(policies=quick(2))
    noting(consumer, bad)
    await die(world, consumer, bad, [-1])
    (letter,) = await letters(world)
    await retry(world.database, reader(world, consumer), letter.id, DEED)
    await world.settled(consumer)
    (again,) = await letters(world)
    assert (again.message_id, again.reason) == (letter.message_id, "rejected")
    assert again.id > letter.id


async def test_a_parked_key_goes_on_behind_it(world, bad):
    """P3, H251: first the message itself, then what is parked behind it."""
    consumer = world.consumer(policies=quick(2, on_failure=OnFailure.PARK))
    noting(consumer, bad)
    await die(world, consumer, bad, [-1, 2, 3])
    (letter,) = await letters(world)
    assert [entry.state for entry in await world.database.read(list_inbox)] == ["parked", "behind", "behind"]
    bad.clear()
    await retry(world.database, reader(world, consumer), letter.id, DEED)
    await world.settled(consumer)
    assert await world.effects() == [("a", -1), ("a", 2), ("a", 3)]


async def test_a_parked_key_goes_on_without_it(world, bad):
    """P3, H252: a dropped message lets its key go on, and should the broker repeat it, it has no effect."""
    consumer = world.consumer(policies=quick(2, on_failure=OnFailure.PARK))
    noting(consumer, bad)
    message, *_ = await die(world, consumer, bad, [-1, 2, 3])
    (letter,) = await letters(world)
    bad.clear()
    await drop(world.database, letter.id, DEED)
    await world.settled(consumer)
    world.broker.put(message, redelivered=True)
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 2), ("a", 3)]
    assert (await world.dead(), await world.waiting()) == ([], [])


async def test_dead_letters_of_one_key_are_handled_in_its_order(world, bad):
    """P3, H251: one after the other, as they came."""
    consumer = world.consumer(policies=quick(2))
    noting(consumer, bad)
    bad.update((-1, -2, -3))
    world.put(*[Noted(book="a", number=number) for number in (-1, -2, -3)])
    async with running(consumer):
        await world.told.until(lambda counts: counts["dead"] == 3)
    bad.clear()
    for letter in await letters(world):
        await retry(world.database, reader(world, consumer), letter.id, DEED)
    await world.settled(consumer)
    assert await world.effects() == [("a", -1), ("a", -2), ("a", -3)]


async def test_what_nobody_could_read_goes_to_every_handler(world, bad):
    """P2, H250: kept for the group, it is given to the handlers of its type when it can be read, and to each once."""
    consumer = world.consumer()
    noting(consumer, bad)
    good = world.message(Noted(book="a", number=1))
    world.broker.put(good._replace(payload=b"{"))
    async with running(consumer):
        await world.told.until(lambda counts: counts["dead"] == 1)
    (letter,) = await letters(world)
    assert (letter.consumer, letter.reason) == ("app", "undecodable")
    with pytest.raises(LetterKept, match="still cannot be read"):
        await retry(world.database, reader(world, consumer), letter.id, DEED)
    await world.database.execute(sa.text("UPDATE txp_dead_letter SET payload = :payload"), {"payload": good.payload})
    await retry(world.database, reader(world, consumer), letter.id, DEED)
    await world.settled(consumer)
    world.broker.put(good._replace(payload=b"{"), redelivered=True)
    async with running(consumer):
        await world.broker.all_acked()
    assert (await world.effects(), await world.dead()) == ([("a", 1)], [])


async def test_what_nobody_could_read_does_not_come_back_when_dropped(world, bad):
    """P7, H252: the count falls, and a repetition by the broker does not raise it again."""
    consumer = world.consumer()
    noting(consumer, bad)
    broken = world.message(Noted(book="a", number=1))._replace(payload=b"{")
    for _ in range(2):
        world.broker.put(broken)
        async with running(consumer):
            await world.broker.all_acked()
        for letter in await letters(world):
            await drop(world.database, letter.id, DEED)
    assert await letters(world) == []
    assert len(await world.database.read(read_audit)) == 1


async def test_a_reused_id_is_not_retried_and_its_drop_leaves_the_other_alone(world, bad):
    """P2, H250: the message that came first under the id keeps its place, its attempts and its effect."""
    consumer = world.consumer(policies=quick(2, on_failure=OnFailure.PARK))
    noting(consumer, bad)
    bad.add(1)
    first = world.message(Noted(book="a", number=1))
    other = world.message(Noted(book="a", number=2), first.id)
    for message in (first, other):
        world.broker.put(message)
        async with running(consumer):
            await world.broker.all_acked()
    reused = next(letter for letter in await letters(world) if letter.reason == "id reused")
    with pytest.raises(LetterKept, match="other content"):
        await retry(world.database, reader(world, consumer), reused.id, DEED)
    await drop(world.database, reused.id, DEED)
    assert [entry.state for entry in await world.database.read(list_inbox)] == ["parked"]
    bad.clear()
    (left,) = await letters(world)
    await retry(world.database, reader(world, consumer), left.id, DEED)
    await world.settled(consumer)
    assert await world.effects() == [("a", 1)]


async def test_half_done_is_not_retried(world):
    """P2, H250: its first half would be there twice; dropped it is out of the way."""
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        await tx.session.commit()
        raise RuntimeError("and then")

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.told.until(lambda counts: counts["dead"] == 1)
    (letter,) = await letters(world)
    with pytest.raises(LetterKept, match="by hand"):
        await retry(world.database, reader(world, consumer), letter.id, DEED)
    await drop(world.database, letter.id, DEED)
    assert (await world.effects(), await letters(world)) == ([("a", 1)], [])


async def test_a_handler_that_is_gone_is_named(world, bad):
    """P7, H250: nothing is put where nobody takes it; the answer says which handlers there are."""
    consumer = world.consumer()
    noting(consumer, bad)
    await die(world, consumer, bad, [-1])
    (letter,) = await letters(world)
    renamed = world.consumer()

    @renamed.on(Noted, name="other")
    async def other(event: Noted, tx: Transaction) -> None: ...

    with pytest.raises(LetterKept, match=r"no handler app\.noted .* it has app\.other"):
        await retry(world.database, reader(world, renamed), letter.id, DEED)
    assert await letters(world) == [letter]


async def test_what_becomes_of_one_message_at_its_handlers(world, bad):
    """P7: handled here, waiting there."""
    consumer = world.consumer(policies=quick(2, wait=3600))
    noting(consumer, bad)

    @consumer.on(Noted)
    async def fails(event: Noted, tx: Transaction) -> None:
        raise ValueError("no")

    (message,) = world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    found = await world.database.read(lambda connection: find_at_handlers(connection, message.id))
    assert [(entry.consumer, entry.state) for entry in found.waiting] == [("app.fails", "retrying")]
    assert [done.consumer for done in found.handled] == ["app.noted"]
    assert json.loads(found.payload)["payload"] == {"book": "a", "number": 1}


async def test_due_attempts_are_waited_for_and_later_ones_are_not(world, bad):
    """P4, H255: a drain ends after what is due now, whatever a later time brings."""
    consumer = world.consumer(policies=quick(3, wait=3600))
    noting(consumer, bad)

    @consumer.on(Echoed)
    async def fails(event: Echoed, tx: Transaction) -> None:
        raise ValueError("no")

    await die(world, consumer, bad, [-1])
    world.put(Echoed(book="b", number=1))
    (letter,) = await letters(world)
    bad.clear()
    await retry(world.database, reader(world, consumer), letter.id, DEED)
    async with running(consumer):
        await world.broker.all_acked()
        await consumer.caught_up()
        assert await world.effects() == [("a", -1)]
        (later,) = await world.database.read(list_inbox)
    assert later.due_at - later.occurred_at > timedelta(minutes=30)
