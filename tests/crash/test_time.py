"""The explorer's time: it belongs to the case, not to the machine."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from mmap import mmap
from pathlib import Path

import pytest

from crash.inbox_flows import INBOX_FLOWS
from txpatterns.coordination.leases import Leases
from txpatterns.outbox.schema import SCOPE
from txpatterns.testing.explorer import Flow, HurriedClock, Options, Surroundings, explore_flow
from txpatterns.testing.explorer import clock as clocks
from txpatterns.testing.explorer.clock import CommonTime
from txpatterns.testing.explorer.points import Points

START = datetime(2026, 1, 1, tzinfo=UTC)
EMITS: Flow = next(flow for flow in INBOX_FLOWS if flow.name == "handler that emits")


@pytest.fixture
def points(tmp_path: Path) -> Points:
    return Points(tmp_path / "journal", mmap(-1, 4))


@pytest.fixture
def common() -> CommonTime:
    return CommonTime(START)


@pytest.fixture
def clock(common: CommonTime, points: Points, monkeypatch: pytest.MonkeyPatch) -> HurriedClock:
    monkeypatch.setattr(clocks, "_QUIET", 0.0)  # idle at once
    return HurriedClock(common, 0, points)


async def turns() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_who_waits_is_woken_at_its_time_and_in_its_order(clock: HurriedClock):
    """H233: an hour is as short as a second, and comes after it."""
    woken = []

    async def wait(seconds: int) -> None:
        assert not await clock.wait(asyncio.Event(), timedelta(seconds=seconds))
        woken.append((seconds, round(clock.monotonic())))

    await asyncio.gather(*map(wait, (3600, 1, 20)))
    assert woken == [(1, 1), (20, 20), (3600, 3600)]


async def test_time_stands_still_while_a_call_is_under_way(clock: HurriedClock, points: Points):
    """H233: a lease does not run out because a machine is slow to answer."""
    waiting = asyncio.ensure_future(clock.wait(asyncio.Event(), timedelta(seconds=15)))
    with points.calling():
        await turns()
        assert (clock.now(), waiting.done()) == (START, False)
    assert await waiting is False


async def test_time_passes_for_who_never_waits(clock: HurriedClock, points: Points):
    """H233: by what is done, and by nothing else."""
    for _ in range(1000):
        points.arrive("select")
    await turns()
    assert clock.now() == START + timedelta(seconds=1)


async def test_an_event_ends_a_wait_before_its_time(clock: HurriedClock):
    """H233: nobody is idle who has just been told."""
    event = asyncio.Event()
    event.set()
    assert await clock.wait(event, timedelta(hours=1)) is True
    assert clock.now() == START


async def test_all_processes_of_a_case_have_one_time(clock: HurriedClock, common: CommonTime, tmp_path: Path):
    """H233: a due time never lies ahead for one of them only."""
    other = HurriedClock(common, 1, Points(tmp_path / "other", mmap(-1, 4)))
    waiting = asyncio.ensure_future(clock.wait(asyncio.Event(), timedelta(minutes=59)))
    await asyncio.sleep(0)
    other.jump(timedelta(hours=1))
    assert await waiting is False
    assert clock.now() == other.now()


def never_hand_over(_: Surroundings) -> None:
    leave = Leases.leave

    async def stay(self: Leases) -> None:
        if self.scope != SCOPE:
            await leave(self)

    Leases.leave = stay


def test_a_lease_runs_out_for_who_waits_for_it():
    """H30, H233: no relay hands over, so each waits for the lease of the one before; on any machine it gets it."""
    report = explore_flow(replace(EMITS, plant=never_hand_over), ["sqlite"], Options(most=3))
    assert (report.total, report.failures) == (3, [])
