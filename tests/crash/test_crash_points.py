"""Every canonical flow, struck at its points and recovered.

Longer, or one case again:
    TXP_CRASH_POINTS=all python -m pytest tests/crash
    TXP_CRASH_ONLY='handle: commit after insert effect#1/kill-after' python -m pytest tests/crash -k sqlite
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from crash.inbox_flows import INBOX_FLOWS
from crash.outbox_flows import OUTBOX_FLOWS
from txpatterns.testing.explorer import Flow, Mode, Options, Report, explore_flow

FLOWS = [*OUTBOX_FLOWS, *INBOX_FLOWS]
WORKERS = 2
SEED = int(os.environ.get("TXP_TEST_SEED", "1"))
WANTED = os.environ.get("TXP_CRASH_POINTS", "")
ONLY = os.environ.get("TXP_CRASH_ONLY")
LEAST = 1000

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def reports(pytestconfig: pytest.Config) -> Iterator[dict[str, Report]]:
    """What each test has found; the sum is printed, whatever pytest captures."""
    reports: dict[str, Report] = {}
    yield reports
    total = Report(SEED)
    for report in reports.values():
        total.add(report)
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{total}")
    if len(reports) >= 2 * len(FLOWS) and not ONLY:
        assert total.total >= LEAST, f"the gate is too narrow: {total.total} of {LEAST}"


# A process that is stopped with row locks keeps its successor from just those rows until it goes on or its connection
# is cut, so "paused" is explored where a lock makes everybody wait, on SQLite; takeovers from a paused relay on
# PostgreSQL are tests/outbox/test_relay.py and tests/endtoend/test_faults.py.
UNPAUSED = tuple(mode for mode in Mode if mode is not Mode.PAUSE)


def options(usual: int, *, every_effect: bool, modes: tuple[Mode, ...] = tuple(Mode)) -> Options:
    most = None if WANTED == "all" else int(WANTED or usual)
    return Options(most=most, every_effect=every_effect, seed=SEED, only=ONLY, modes=modes)


def judge(report: Report) -> None:
    assert not report.failures, f"{report}\n\n{report.failures[0].output[-6000:]}"
    # How often a lease is renewed differs from run to run, so the later of its points may not come again.
    assert len(report.unfired) <= max(2, report.total // 3), f"too many points were not reached: {report.unfired}"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_on_sqlite(flow: Flow, reports: dict[str, Report]):
    """P1, P2, P3, P7, H1, H2, H5, H6, H18, H20, H21, H22, H25, H30, H51: killed, cut off, cancelled, paused; I1-I6."""
    report = reports[f"sqlite {flow.name}"] = explore_flow(flow, ["sqlite"] * WORKERS, options(8, every_effect=True))
    judge(report)


@pytest.fixture(scope="module")
def databases(postgres) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(postgres.database()).url("asyncpg") for _ in range(WORKERS)]


@pytest.fixture(scope="module")
def psycopg_databases(postgres) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(postgres.database()).url("psycopg") for _ in range(WORKERS)]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_on_postgresql(flow: Flow, databases: list[str], reports: dict[str, Report]):
    """P1, P2, P3, P7, H5, H6, H15, H18, H20, H30, H43, H44, H51: the same with several connections; I9-I11, I14."""
    report = reports[f"postgresql {flow.name}"] = explore_flow(
        flow, databases, options(20, every_effect=False, modes=UNPAUSED)
    )
    judge(report)


@pytest.mark.parametrize("flow", OUTBOX_FLOWS[:4], ids=lambda flow: flow.name)
def test_writes_with_psycopg(flow: Flow, psycopg_databases: list[str], reports: dict[str, Report]):
    """P1, H2, H5, H6: the rows are written on the driver's own connection, and each driver has its own way."""
    report = reports[f"psycopg {flow.name}"] = explore_flow(flow, psycopg_databases, options(20, every_effect=False))
    judge(report)
