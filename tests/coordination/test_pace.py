"""When parts look by themselves: together, so that an idle process wakes up seldom."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from outbox.support import OffsetClock
from txpatterns.coordination.pace import SELDOM, Pace, until_round
from txpatterns.testing.clock import ManualClock


def test_rounds_are_the_same_for_all_parts():
    """H285: whenever each of them began; and none waits for longer than it is told."""
    clock, ends = ManualClock(), set()
    for _ in range(8):
        left = until_round(clock, 2.0)
        assert 0 < left <= 2.04
        ends.add(round(clock.monotonic() + left, 6))
        clock.advance(timedelta(seconds=0.249))
    assert len(ends) == 1


def test_a_timer_that_ends_early_begins_no_second_round():
    """H285: what was just done is not done again a moment later."""
    clock = ManualClock()
    clock.advance(timedelta(seconds=until_round(clock, 2.0) - 0.001))
    assert until_round(clock, 2.0) == pytest.approx(2.001)


def test_of_a_clock_that_runs_the_rounds_are_kept():
    """H285: also where they begin at another moment than those of other processes."""
    clock = OffsetClock()
    first, second = (clock.monotonic() + until_round(clock, 3600.0) for _ in range(2))
    assert abs(first - second) < 60


def test_without_a_listener_the_settings_hold():
    """H285: also as soon as it is known to hear nothing."""
    clock, hearing = ManualClock(), SimpleNamespace(hears=True)
    pace = Pace(clock)
    assert pace.between_looks(0.5) == 0.5
    pace.follow(hearing)
    clock.advance(timedelta(seconds=until_round(clock, 0.5 * SELDOM)))
    assert pace.between_looks(0.5) == pytest.approx(0.5 * SELDOM)
    hearing.hears = False
    assert pace.between_looks(0.5) == 0.5
