"""Whatever a handler raises is a failed attempt: the lane goes on, and so do the others."""

import asyncio
import signal
from contextlib import suppress

import greenlet
import pytest

from inbox.support import LONG, FakeDelivery, Noted, note, quick, running
from txpatterns.execution.calls import is_interrupt
from txpatterns.hooks import Hooks, on
from txpatterns.inbox import SyncTransaction, Transaction
from txpatterns.inbox.lanes import Lanes
from txpatterns.inbox.moments import Handled
from txpatterns.messages import Message
from txpatterns.serialization import EventRegistry


class Panic(BaseException):
    """As an extension in another language raises it."""


KINDS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Panic, greenlet.GreenletExit]
KINDS += [StopIteration, StopAsyncIteration]


async def see_that_it_is_dead_and_others_go_on(world, consumer):
    world.put(*[Noted(book=book, number=number) for number in (1, 2) for book in "ab"])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 3 and counts["dead"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts, letter.key) == ("exhausted", 2, "a")
    assert "test_any_error.py" in letter.error
    assert sorted(await world.effects()) == [("a", 2), ("b", 1), ("b", 2)]
    assert await world.waiting() == []
    return letter


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_an_async_handler_raises_is_a_failed_attempt(world, kind):
    """P3, P7, H142, H201: a lane that ended would stand still, with messages that nobody acknowledges."""
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if (event.book, event.number) == ("a", 1):
            raise kind

    await see_that_it_is_dead_and_others_go_on(world, consumer)


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_plain_handler_raises_is_a_failed_attempt(world, kind):
    """P3, P7, H201: the same in a thread."""
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    def noted(event: Noted, tx: SyncTransaction) -> None:
        tx.session.execute(note(event.book, event.number))
        if (event.book, event.number) == ("a", 1):
            raise kind

    await see_that_it_is_dead_and_others_go_on(world, consumer)


class Untellable(Exception):
    """Fails at whatever is asked of it."""

    def fail(self):
        raise RuntimeError("not to be asked")

    __cause__ = __context__ = exceptions = sqlstate = pgcode = orig = property(fail)
    __str__ = __repr__ = fail


def with_odd_notes():
    error = ValueError("odd notes")
    error.__notes__, error.sqlstate, error.pgcode, error.orig = [7], 8006, object(), 7
    return error


@pytest.mark.parametrize("make", [Untellable, with_odd_notes, lambda: ExceptionGroup("one", [Untellable()])])
async def test_an_error_that_cannot_be_asked_is_a_failed_attempt_like_any_other(world, make):
    """P7, H201, H204: what the class of an error does when it is looked at must not hold up its key, or all keys."""
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if (event.book, event.number) == ("a", 1):
            raise make()
        await tx.session.execute(note(event.book, event.number))

    world.put(*[Noted(book=book, number=number) for number in (1, 2) for book in "ab"])
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["handled"] == 3 and counts["dead"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts, letter.key) == ("exhausted", 2, "a")
    assert sorted(await world.effects()) == [("a", 2), ("b", 1), ("b", 2)]


@pytest.mark.parametrize("then", ["await", "return"])
async def test_a_handler_that_cancels_itself_has_failed(world, then):
    """P7, H142, H201: only a cancellation of ours ends a lane, not one that a library in the handler asks for."""
    consumer = world.consumer(policies=quick(2))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if (event.book, event.number) == ("a", 1):
            asyncio.current_task().cancel()
            if then == "await":
                await tx.session.execute(note(event.book, 100))

    await see_that_it_is_dead_and_others_go_on(world, consumer)


async def test_errors_inside_of_a_group_name_the_line_of_the_member(world):
    """P7, H106, H201: a group of errors that are none of Exception's, from a task group."""
    consumer = world.consumer(policies=quick(2))

    async def part():
        raise Panic("index out of bounds")

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if (event.book, event.number) == ("a", 1):
            async with asyncio.TaskGroup() as group:
                group.create_task(part())

    letter = await see_that_it_is_dead_and_others_go_on(world, consumer)
    assert " in test_errors_inside_of_a_group_name_the_line_of_the_member.<locals>.part)" in letter.error
    assert "Panic: index out of bounds" in letter.error.splitlines()[0]


async def test_an_error_of_a_validator_that_is_no_exception_makes_a_dead_letter(sqlite_world, monkeypatch):
    """P7, H24, H201: whatever reading a message raises."""
    world = sqlite_world

    def read(self, message):
        raise Panic

    monkeypatch.setattr(EventRegistry, "read", read)
    consumer = world.consumer()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        raise AssertionError("never")

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    (letter,) = await world.dead()
    assert (letter.reason, "Panic" in letter.error) == ("undecodable", True)


async def test_a_listener_that_raises_what_is_no_exception_harms_nobody(sqlite_world):
    """P7, H201: it is logged, as anything that a listener raises."""

    class Panics(Hooks):
        @on(Handled)
        def handled(self, moment):
            raise SystemExit

    world = sqlite_world
    consumer = world.consumer()
    consumer._hooks.add(Panics())

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    world.put(*[Noted(book="a", number=number) for number in (1, 2)])
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1), ("a", 2)]


def test_a_ctrl_c_is_told_from_an_error_of_the_same_name():
    """P7, H201: the user's stops the process; Python raises it in whatever the main thread is doing."""

    async def main():
        signal.raise_signal(signal.SIGINT)  # asyncio cancels the main task the first time
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)
        with pytest.raises(KeyboardInterrupt) as pressed:
            signal.raise_signal(signal.SIGINT)
        assert is_interrupt(pressed.value)
        with pytest.raises(KeyboardInterrupt) as raised:
            raise KeyboardInterrupt
        assert not is_interrupt(raised.value)
        assert not await asyncio.to_thread(is_interrupt, pressed.value)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        asyncio.run(main())
        with pytest.raises(KeyboardInterrupt) as pressed:
            signal.raise_signal(signal.SIGINT)
        assert is_interrupt(pressed.value)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_lane_that_ends_all_the_same_makes_the_intake_begin_anew(sqlite_world, monkeypatch):
    """P7, H143, H201: what it had is not acknowledged, so it has to be given out again."""
    world, subscriptions = sqlite_world, []
    consumer = world.consumer()
    subscribe = world.broker.subscribe

    def counted(topics, *, group):
        subscriptions.append(topics)
        if len(subscriptions) == 2:
            world.broker.put(*[delivery.message for delivery in world.broker.open])
        return subscribe(topics, group=group)

    monkeypatch.setattr(world.broker, "subscribe", counted)
    begin = consumer._consuming.lanes._begin

    def broken(waiting):
        if len(subscriptions) == 1:
            raise Panic
        return begin(waiting)

    monkeypatch.setattr(consumer._consuming.lanes, "_begin", broken)

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 1)
    assert await world.effects() == [("a", 1)]
    assert len(subscriptions) == 2


async def test_lanes_that_are_cancelled_are_not_broken():
    """P7, H201: a stop is no accident."""
    begun = asyncio.Event()

    async def handle():
        begun.set()
        await asyncio.Event().wait()

    lanes = Lanes(lambda waiting: (1, handle), max_in_flight=9, max_bytes=9, stopping=asyncio.Event())
    await lanes.put(FakeDelivery(Message("1", "notes", "note.added", b""), False, None))
    await begun.wait()
    await lanes.cancel()
    assert (lanes.broken.is_set(), lanes.in_flight) == (False, 0)
