"""The tests of this folder are tested: each planted bug turns the one that guards against it red."""

import asyncio
import inspect

import pytest

from resilience import planted
from resilience.test_cache import Told
from txpatterns.testing.clock import ManualClock

RED = (Exception, asyncio.CancelledError, pytest.fail.Exception)


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.name)
async def test_a_planted_bug_is_found(bug, monkeypatch, request):
    """P4, H176, H328, H329, H343, H344: and so is pybreaker as it is, by each of its five findings."""
    given = {"clock": ManualClock(), "told": Told()}
    if "own_redis" in inspect.signature(bug.shows).parameters:
        given["own_redis"] = request.getfixturevalue("own_redis")
    bug.plant(monkeypatch)
    with pytest.raises(RED):
        await run(bug.shows, given)


async def run(test, given):
    found = test(**{name: given[name] for name in inspect.signature(test).parameters})
    if inspect.isawaitable(found):
        await found
