"""The breaker against a model of a few lines, in any order of what can happen; and many callers at once."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from txpatterns.errors import CircuitOpen, Reject
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.testing.clock import ManualClock

FAILURES = 3
OPEN_FOR = timedelta(seconds=30)
CALLERS = 1_000

ENDS = {"answered": None, "refused": Reject("no"), "failed": ConnectionError(), "cancelled": asyncio.CancelledError()}


class Model:
    """What a breaker should do, with nothing that is shared."""

    def __init__(self):
        self.state, self.in_a_row, self.time, self.until, self.period = "closed", 0, 0.0, 0.0, 0

    def begin(self):
        if self.state == "closed":
            return self.period
        if self.time < self.until:
            return None
        self._become("half-open", self.time + OPEN_FOR.total_seconds())
        return self.period

    def end(self, period, how):
        if period != self.period:
            return
        if self.state == "half-open":
            if how == "cancelled":
                self._become("open", self.time)
            elif how == "failed":
                self._become("open", self.time + OPEN_FOR.total_seconds())
            else:
                self._become("closed", 0.0)
        elif how == "failed":
            self.in_a_row += 1
            if self.in_a_row == FAILURES:
                self._become("open", self.time + OPEN_FOR.total_seconds())
        elif how != "cancelled":
            self.in_a_row = 0

    def _become(self, state, until):
        self.state, self.until, self.in_a_row, self.period = state, until, 0, self.period + 1


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker("bank", failures=FAILURES, open_for=OPEN_FOR, clock=self.clock)
        self.model = Model()
        self.running = []

    @rule()
    def begin(self):
        passage, period = self.breaker.passing(), self.model.begin()
        if period is not None:
            passage.__enter__()
            self.running.append((passage, period))
            return
        with pytest.raises(CircuitOpen) as refused:
            passage.__enter__()
        assert refused.value.after.total_seconds() == self.model.until - self.model.time

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50), how=st.sampled_from(sorted(ENDS)))
    def end(self, which, how):
        passage, period = self.running.pop(which % len(self.running))
        error = ENDS[how]
        passage.__exit__(error and type(error), error, None)
        self.model.end(period, how)

    @rule(seconds=st.sampled_from([1, 10, 29, 30, 31, 60]))
    def wait(self, seconds):
        self.clock.advance(timedelta(seconds=seconds))
        self.model.time += seconds

    @invariant()
    def stands_as_the_model_does(self):
        assert self.breaker.state == self.model.state


TestAgainstTheModel = Machine.TestCase
TestAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstTheModel.__doc__ = "P4, H176: calls that overlap, end in any order and in every way, and time."


class Outside:
    """Whoever is called: says how many are with it at the same moment while it is away."""

    def __init__(self):
        self.is_away = True
        self.lock = threading.Lock()
        self.inside = self.most = self.calls = 0

    def __enter__(self):
        with self.lock:
            self.inside, self.calls = self.inside + 1, self.calls + 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *error):
        with self.lock:
            self.inside -= 1


async def test_a_thousand_tasks_many_of_them_cancelled():
    """P4, H176: one probe at a time while it is away; nobody is told something else than happened to them."""
    clock, outside, dice = ManualClock(), Outside(), random.Random(1)
    breaker = CircuitBreaker("bank", failures=FAILURES, open_for=OPEN_FOR, clock=clock)

    async def call():
        async with breaker:
            with outside:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                if outside.is_away:
                    raise ConnectionError

    breaker.open()
    ends = []
    for _ in range(CALLERS // 50):
        clock.advance(OPEN_FOR)
        tasks = [asyncio.create_task(call()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in dice.sample(tasks, 10):
            task.cancel()
        ends += await asyncio.gather(*tasks, return_exceptions=True)
    assert outside.most == 1
    assert {type(end) for end in ends} <= {CircuitOpen, ConnectionError, asyncio.CancelledError}
    outside.is_away = False
    clock.advance(OPEN_FOR)
    await call()
    assert await asyncio.gather(*(call() for _ in range(CALLERS))) == [None] * CALLERS
    assert breaker.state is State.CLOSED


def test_a_thousand_calls_from_threads():
    """P4, H176: one probe at a time, also where threads meet at the gate."""
    clock, outside = ManualClock(), Outside()
    breaker = CircuitBreaker("bank", failures=FAILURES, open_for=OPEN_FOR, clock=clock)
    together = threading.Barrier(20, timeout=60)

    def caller(number):
        for turn in range(CALLERS // 20):
            if together.wait() == 0:
                clock.advance(OPEN_FOR)
            together.wait()
            with suppress(CircuitOpen, ConnectionError, KeyboardInterrupt), breaker, outside:
                together_enough = sum(range(200))
                assert together_enough
                raise KeyboardInterrupt if turn % 7 == 0 else ConnectionError

    breaker.open()
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(caller, range(20)))
    assert outside.most == 1
    assert CALLERS // 20 <= outside.calls < CALLERS
    clock.advance(OPEN_FOR)
    with breaker:
        pass
    assert breaker.state is State.CLOSED
