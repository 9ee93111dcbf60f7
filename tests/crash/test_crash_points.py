"""Every canonical flow, struck at its points and recovered; in the soak at more of them, and again in the recovery.

The gate strikes a sample, chosen by TXP_TEST_SEED: another seed strikes elsewhere. The soak kills at every point.

Longer, or one case again:
    TXP_CRASH_POINTS=100 python -m pytest tests/crash        (cases for each flow; "all" for every point and fault)
    TXP_CRASH_ONLY='handle: commit after insert effect#1/kill-after' python -m pytest tests/crash -k sqlite
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from crash.ids_flows import IDS_FLOWS
from crash.inbox_flows import INBOX_FLOWS
from crash.outbox_flows import OUTBOX_FLOWS
from crash.saga_flows import SAGA_FLOWS
from crash.tcc_flows import TCC_FLOWS
from rig import evidence
from rig.servers.postgres import Postgres
from txpatterns.testing.explorer import Flow, Mode, Options, Report, explore_flow

FLOWS = [*OUTBOX_FLOWS, *INBOX_FLOWS, *SAGA_FLOWS, *TCC_FLOWS, *IDS_FLOWS]
WRITING = OUTBOX_FLOWS[:4]
FEW = {flow.name: 8 for flow in SAGA_FLOWS} | {flow.name: 5 for flow in TCC_FLOWS}
SAMPLED = FEW | dict.fromkeys(("saga of steps", "saga of calls", "saga of events", "saga in threads, undone"), 20)
SAMPLED |= dict.fromkeys(("handle in batches", "handler that emits", "attempts used up, parked"), 40)
"""They have so many points that only the soak kills at each of their effects: how many cases the gate has on SQLite."""
WORKERS = 2
SEED = int(os.environ.get("TXP_TEST_SEED", "1"))
WANTED = os.environ.get("TXP_CRASH_POINTS", "")
ONLY = os.environ.get("TXP_CRASH_ONLY")
LEAST = 1000
SOAK = 20
KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER)

Reports = dict[str, Report]

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]


def summed(reports: Reports) -> Report:
    total = Report(SEED)
    for report in reports.values():
        total.add(report)
    return total


@pytest.fixture(scope="module")
def reports(pytestconfig: pytest.Config) -> Iterator[Reports]:
    """What each test of the gate has found; the sum is told at the end of the run, whatever process this is."""
    reports: Reports = {}
    yield reports
    total = summed(reports)
    pytestconfig.stash[evidence.told].append(f"{str(total).splitlines()[0]}; a sample, the soak kills at every point")
    if len(reports) == 2 * len(FLOWS) + len(WRITING) and not (ONLY or WANTED):
        assert total.total >= LEAST, f"the gate is too narrow: {total.total} of {LEAST}"


@pytest.fixture(scope="module")
def soaked(postgres: Postgres, pytestconfig: pytest.Config) -> Iterator[Reports]:
    """The same of the soak, kept as evidence."""
    reports: Reports = {}
    yield reports
    total = summed(reports)
    pytestconfig.stash[evidence.told].append(f"soak: {str(total).splitlines()[0]}")
    figures = {
        "seed": SEED,
        "cases_for_each_flow": WANTED or SOAK,
        "seconds": round(total.seconds),
        "points": sum(total.points.values()),
        "points_by_flow": {name: sum(report.points.values()) for name, report in reports.items()},
        "cases": total.total,
        "cases_by_fault": dict(sorted(total.executed.items())),
        "not_reached": [str(case) for case in total.unfired],
        "failed": [f"{verdict.case}: {verdict.wrong}" for verdict in total.failures],
    }
    evidence.keep("crash-points", figures, [postgres])


def options(usual: int | None, *, every_effect: bool = False, again: int = 0) -> Options:
    most = None if WANTED == "all" else int(WANTED or usual or 0) or None
    return Options(most=most, every_effect=every_effect, again=again, seed=SEED, only=ONLY)


def judge(report: Report) -> None:
    assert not report.failures, f"{report}\n\n{report.failures[0].output[-6000:]}"
    # What happens at intervals, such as renewing a lease, is at other places in each run.
    assert len(report.unfired) <= max(2, report.total // 20), f"too many points were not reached: {report.unfired}"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_on_sqlite(flow: Flow, reports: Reports):
    """P1, P2, P3, P4, P6, P7, H1, H2, H5, H6, H18, H20, H21, H22, H25, H30, H51: killed, cut off, cancelled, paused."""
    usual = options(SAMPLED.get(flow.name, 3), every_effect=flow.name not in SAMPLED)
    report = reports[f"sqlite {flow.name}"] = explore_flow(flow, ["sqlite"] * WORKERS, usual)
    judge(report)


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(postgres.database()).url("asyncpg") for _ in range(WORKERS)]


@pytest.fixture(scope="module")
def psycopg_databases(postgres: Postgres) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(postgres.database()).url("psycopg") for _ in range(WORKERS)]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_on_postgresql(flow: Flow, databases: list[str], reports: Reports):
    """P1, P2, P3, P4, P6, P7, H5, H6, H15, H18, H20, H30, H43, H44, H51, H168: the same with several connections."""
    report = reports[f"postgresql {flow.name}"] = explore_flow(flow, databases, options(5 if flow.name in FEW else 7))
    judge(report)


@pytest.mark.parametrize("flow", WRITING, ids=lambda flow: flow.name)
def test_writes_with_psycopg(flow: Flow, psycopg_databases: list[str], reports: Reports):
    """P1, H2, H5, H6: the rows are written on the driver's own connection, and each driver has its own way."""
    report = reports[f"psycopg {flow.name}"] = explore_flow(flow, psycopg_databases, options(8))
    judge(report)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_at_every_point(database: str, flow: Flow, databases: list[str], soaked: Reports):
    """P1, P2, P3, P7, H5, H18, H20, H30: SIGKILL before each point, and after each with an effect; I1-I6, I9-I11."""
    urls = databases if database == "postgresql" else ["sqlite"] * WORKERS
    report = soaked[f"{database} {flow.name}, killed"] = explore_flow(flow, urls, replace(options(None), modes=KILLS))
    judge(report)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_many_points_and_once_more_in_the_recovery(database: str, flow: Flow, databases: list[str], soaked: Reports):
    """P1, P2, P3, P7, H5, H6, H15, H18, H20, H30, H43, H44, H51: two strikes in one story; I1-I6, I9-I11, I14.

    By default a sample by seed; TXP_CRASH_POINTS=all strikes every point by every fault, which takes hours.
    """
    urls = databases if database == "postgresql" else ["sqlite"] * WORKERS
    report = soaked[f"{database} {flow.name}"] = explore_flow(flow, urls, options(SOAK, again=1))
    judge(report)
