"""Random calls, random losses, against a model of a few lines."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import redis as plain_redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tcc.stock.support import A_WHILE, open_memory, open_redis, open_sql, persistently
from txpatterns.errors import OutOfStock, ReservationEnded, ReservationReused, UnknownReservation
from txpatterns.tcc.stock import Decision, Level, sweep
from txpatterns.testing.clock import ManualClock

LOADED = {"A": 6, "B": 4, "C": 2}
NAMES = st.sampled_from([f"r{n}" for n in range(6)])
LINES = st.dictionaries(st.sampled_from(sorted(LOADED)), st.integers(1, 3), min_size=1, max_size=3)


class Machine(RuleBasedStateMachine):
    """One stock and its model: how each reservation stands, and how much of each item was ever there."""

    def __init__(self, opening, redis_url=None):
        super().__init__()
        self.clock = ManualClock()
        self.redis_url = redis_url
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        url = f"sqlite+aiosqlite:///{Path(self.folder) / 'stock.db'}"
        self.stock = self.runner.run(self.stack.enter_async_context(opening(url, self.clock)))
        self.run(self.stock.load, LOADED)
        self.states: dict[str, str] = {}
        self.lines: dict[str, dict[str, int]] = {}
        self.totals = dict(LOADED)
        self.round = 0
        self.past = None

    def teardown(self):
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def run(self, call, *given):
        return self.runner.run(persistently(lambda: call(*given)))

    def of(self, state, item):
        return sum(lines.get(item, 0) for name, lines in self.lines.items() if self.states[name] == state)

    def level(self, item):
        held, sold = self.of("held", item), self.of("sold", item)
        return Level(self.totals[item] - held - sold, held, sold)

    def named(self, name):
        """What is refused is remembered until its time only, so each round has names of its own."""
        return f"{name}-{self.round}"

    @rule(name=NAMES, lines=LINES)
    def reserve(self, name, lines):
        name = self.named(name)
        state, until = self.states.get(name), self.clock.now() + A_WHILE
        if state is None:
            enough = all(self.level(item).available >= n for item, n in lines.items())
            self.states[name], self.lines[name] = "held" if enough else "refused", lines
        if state == "empty":
            expected = ReservationEnded
        elif self.lines[name] != lines:
            expected = ReservationReused
        else:
            expected = {"refused": OutOfStock, "released": ReservationEnded}.get(self.states[name])
        if expected is None:
            assert self.run(self.stock.reserve, name, lines, until).state == self.states[name]
        else:
            with pytest.raises(expected):
                self.run(self.stock.reserve, name, lines, until)

    @rule(name=NAMES)
    def confirm(self, name):
        name = self.named(name)
        match self.states.get(name):
            case "held" | "sold":
                assert self.run(self.stock.confirm, name) is (self.states[name] == "held")
                self.states[name] = "sold"
            case None:
                with pytest.raises(UnknownReservation):
                    self.run(self.stock.confirm, name)
            case _:
                with pytest.raises(ReservationEnded):
                    self.run(self.stock.confirm, name)

    @rule(name=NAMES)
    def cancel(self, name):
        name = self.named(name)
        match self.states.get(name):
            case "sold":
                with pytest.raises(ReservationEnded):
                    self.run(self.stock.cancel, name)
            case "refused":
                pass  # it differs between the stocks what a reservation is told then
            case state:
                assert self.run(self.stock.cancel, name) is (state == "held")
                self.states[name] = "released" if state in ("held", "released") else "empty"
                self.lines.setdefault(name, {})

    @rule(item=st.sampled_from(sorted(LOADED)), quantity=st.integers(0, 6))
    def count(self, item, quantity):
        self.run(self.stock.set_available, item, quantity)
        self.totals[item] += quantity - self.level(item).available

    @rule(decided=st.sampled_from(sorted(Decision)))
    def time_passes(self, decided):
        self.clock.advance(A_WHILE + timedelta(seconds=11))

        async def decision(name):
            return decided

        self.run(partial(sweep, self.stock, decision, most=1000))
        for name, state in self.states.items():
            if state == "held":
                self.states[name] = {"confirm": "sold", "cancel": "released", "open": "held"}[decided]
        self.round += 1

    @precondition(lambda self: self.redis_url is not None)
    @rule()
    def redis_is_looked_at(self):
        with plain_redis.Redis.from_url(self.redis_url) as client:
            self.past = {key: client.dump(key) for key in client.scan_iter()}

    @precondition(lambda self: self.redis_url is not None)
    @rule(back=st.booleans())
    def redis_loses(self, back):
        """All that it has, or what came since it was looked at."""
        self.round += 1
        with plain_redis.Redis.from_url(self.redis_url) as client:
            client.flushdb()
            for key, value in (self.past or {}).items() if back else ():
                client.restore(key, 0, value)

    @invariant()
    def the_levels_are_those_of_the_model(self):
        expected = {item: self.level(item) for item in LOADED}
        assert self.run(self.stock.levels, LOADED) == expected
        if self.redis_url is not None:
            assert self.runner.run(self.stock._ledger.stock.levels(LOADED)) == expected


BRIEF = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def test_in_memory():
    """P5, H124, I27: nothing but what the model says."""
    run_state_machine_as_test(lambda: Machine(lambda url, clock: open_memory(clock)), settings=BRIEF)


def test_in_a_database():
    """P5, H124, I27: nothing but what the model says."""
    run_state_machine_as_test(lambda: Machine(open_sql), settings=settings(BRIEF, max_examples=12))


@pytest.mark.server
def test_in_redis(redis_url):
    """P5, H124, H127, I27: nor does the ledger say anything else, whenever Redis loses what it had."""

    def opening(url, clock):
        with plain_redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        return open_redis(redis_url, url, clock)

    run_state_machine_as_test(lambda: Machine(opening, redis_url), settings=settings(BRIEF, max_examples=12))


@pytest.mark.soak
@pytest.mark.server
@pytest.mark.timeout(900)
def test_in_redis_for_long(redis_url):
    """P5, H124, H127, I27: the same, many times over."""

    def opening(url, clock):
        with plain_redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        return open_redis(redis_url, url, clock)

    many = settings(BRIEF, max_examples=300, stateful_step_count=60)
    run_state_machine_as_test(lambda: Machine(opening, redis_url), settings=many)
