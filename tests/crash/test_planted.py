"""The explorer is held to the truth: each planted bug turns it red, and by the invariant that it breaks."""

import pytest

from crash.planted import PLANTED, Planted
from txpatterns.testing.explorer import Broken, Options, explore_flow

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

ON_SQLITE = [planted for planted in PLANTED if not planted.postgresql]
ON_POSTGRESQL = [planted for planted in PLANTED if planted.postgresql]


SEEDS = range(1, 9)
"""Some show at one point only, say in the last attempt, and which one that is differs from run to run."""


def what_broke(planted: Planted, urls: list[str]) -> str:
    for seed in SEEDS:
        options = Options(modes=planted.modes, at=planted.points, seed=seed, stop_at_first=True)
        try:
            report = explore_flow(planted.story, urls, options)
        except Broken as broken:  # it is wrong even when nothing strikes it
            return str(broken)
        if report.failures:
            return "; ".join(verdict.wrong for verdict in report.failures)
    return ""


@pytest.mark.parametrize("planted", ON_SQLITE, ids=lambda planted: planted.name)
def test_a_planted_bug_is_found(planted: Planted):
    """P1, P2, P3, P4, P6, H1, H2, H7, H15, H18, H21, H22, H23, H25, H43, H51: the invariants tell right from wrong."""
    assert f"{planted.breaks}:" in what_broke(planted, ["sqlite", "sqlite"]).replace(",", ":")


@pytest.mark.server
@pytest.mark.parametrize("planted", ON_POSTGRESQL, ids=lambda planted: planted.name)
def test_a_planted_bug_is_found_on_postgresql(planted: Planted, postgres):
    """P3, P4, H15, H18, H19, H168: what shows only where two transactions run at once."""
    with postgres.database() as database:
        assert f"{planted.breaks}:" in what_broke(planted, [database.url("asyncpg")]).replace(",", ":")
