"""The bulkhead: so many at the same time, in turn, and no place is lost."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from txpatterns.errors import BulkheadFull, ConfigurationError
from txpatterns.hooks import Hooks, on
from txpatterns.resilience.bulkhead import Bulkhead
from txpatterns.resilience.moments import BulkheadWasFull
from txpatterns.testing.clock import ManualClock

LONG = timedelta(seconds=60)
CALLERS = 1_000


class Full(Hooks):
    def __init__(self):
        self.names = []

    @on(BulkheadWasFull)
    def full(self, moment):
        self.names.append(moment.bulkhead)


def test_nobody_waits_unless_told_to():
    """H344: who comes when it is full is refused at once, and the call is not made."""
    told = Full()
    bulkhead = Bulkhead("bank", at_once=2, hooks=told)
    with bulkhead, bulkhead:
        with pytest.raises(BulkheadFull), bulkhead:
            raise AssertionError
        assert bulkhead.running == 2
    with bulkhead:
        assert bulkhead.running == 1
    assert told.names == ["bank"]


async def test_places_are_given_in_the_order_of_coming():
    """H344: and a newcomer does not overtake those who wait."""
    bulkhead, order = Bulkhead("bank", at_once=1, wait=LONG), []

    async def call(number):
        async with bulkhead:
            order.append(number)
            await asyncio.sleep(0)

    async with bulkhead:
        tasks = [asyncio.create_task(call(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert bulkhead.waiting == 5
    await asyncio.gather(*tasks, call(5))
    assert order == [0, 1, 2, 3, 4, 5]


async def test_the_wait_has_an_end():
    """H344: by the injected clock; whoever has waited so long is refused, and leaves the queue."""
    clock = ManualClock()
    bulkhead = Bulkhead("bank", at_once=1, wait=LONG, clock=clock)

    async def call():
        async with bulkhead:
            raise AssertionError

    async with bulkhead:
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        clock.advance(LONG)
        with pytest.raises(BulkheadFull):
            await task
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_a_place_given_to_one_who_is_cancelled_is_passed_on():
    """H344: cancelled between the giving and the waking, and while it waits."""
    bulkhead = Bulkhead("bank", at_once=1, wait=LONG)

    async def call():
        async with bulkhead:
            return "made"

    passage = bulkhead.passing()
    await passage.__aenter__()
    first, second, third = (asyncio.create_task(call()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    passage.__exit__(None, None, None)
    first.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    third.cancel()  # in vain, for it has ended
    *gone, end = await asyncio.gather(first, second, third, return_exceptions=True)
    assert ([type(error) for error in gone], end) == ([asyncio.CancelledError] * 2, "made")
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_a_loop_that_is_gone_keeps_no_place():
    """H344: those who waited in it are passed over."""
    bulkhead, here = Bulkhead("bank", at_once=1, wait=LONG), asyncio.get_running_loop()

    def elsewhere():
        loop = asyncio.new_event_loop()
        waits = loop.create_task(bulkhead.take_in_turn())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return waits

    async with bulkhead:
        kept = await here.run_in_executor(None, elsewhere)
        assert bulkhead.waiting == 1
    async with bulkhead:
        assert bulkhead.running == 1
    kept._log_destroy_pending = False
    del kept
    assert bulkhead.waiting == 0


async def test_an_event_loop_is_not_made_to_wait():
    """H344: ``with`` works where there is a place, and is refused where it would stop everything else."""
    bulkhead = Bulkhead("bank", at_once=1, wait=LONG)
    with bulkhead, pytest.raises(ConfigurationError, match="async with"), bulkhead:
        raise AssertionError
    assert bulkhead.running == 0


async def test_a_thousand_tasks_many_of_them_cancelled():
    """H344: never more than may be, and in the end every place is free."""
    bulkhead, dice, most, ended = Bulkhead("bank", at_once=7, wait=LONG), random.Random(1), 0, 0

    async def call():
        nonlocal most, ended
        async with bulkhead:
            most = max(most, bulkhead.running)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            ended += 1

    tasks = [asyncio.create_task(call()) for _ in range(CALLERS)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        dice.choice(tasks).cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 7
    assert ended == ends.count(None) < CALLERS
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_threads_and_loops_share_the_places():
    """H344: a thousand calls from threads and from two event loops at the same time."""
    bulkhead, lock = Bulkhead("bank", at_once=5, wait=LONG), threading.Lock()
    inside, most = 0, 0

    def changed(by):
        nonlocal inside, most
        with lock:
            inside += by
            most = max(most, inside)

    def by_threads(_):
        for _ in range(CALLERS // 20):
            with suppress(OSError), bulkhead:
                changed(1)
                changed(-1)
                raise OSError

    async def by_tasks():
        async def call():
            async with bulkhead:
                changed(1)
                await asyncio.sleep(0)
                changed(-1)

        await asyncio.gather(*(call() for _ in range(CALLERS // 4)))

    with ThreadPoolExecutor(12) as threads:
        loops = [threads.submit(asyncio.run, by_tasks()) for _ in range(2)]
        list(threads.map(by_threads, range(10)))
        for loop in loops:
            loop.result()
    assert most <= 5
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


@pytest.mark.parametrize("given", [{"at_once": 0}, {"at_once": 1, "wait": timedelta(seconds=-1)}])
def test_numbers_that_mean_nothing_are_refused(given):
    """H344."""
    with pytest.raises(ConfigurationError):
        Bulkhead("bank", **given)
