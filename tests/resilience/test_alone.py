"""Every part is usable alone: without the extra it says what to type, and the parts that need nothing work."""

import subprocess
import sys

import pytest

from txpatterns import resilience

NEEDS = {
    "breaker": "pybreaker",
    "retrying": "stamina",
    "limits_redis": "redis",
    "entries_redis": "redis",
    "shared": "redis",
}
NEEDS_NOTHING = ("bulkhead", "limits", "cache", "outages", "moments")
BLOCKED = "; ".join(f"sys.modules[{name!r}] = None" for name in ("pybreaker", "stamina", "redis"))


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_a_missing_library_is_named_with_its_remedy():
    """H176: whichever it is."""
    for module, library in NEEDS.items():
        found = run(
            f"import sys; sys.modules[{library!r}] = None\n"
            "from txpatterns.errors import MissingExtra\n"
            f"try:\n    import txpatterns.resilience.{module}\nexcept MissingExtra as error:\n    print(error)"
        )
        assert "pip install 'txpatterns[resilience]'" in found, module


def test_what_needs_no_library_does_without():
    """H176: a bulkhead, a limit and a cache in memory."""
    imports = "; ".join(f"import txpatterns.resilience.{module}" for module in NEEDS_NOTHING)
    run(f"import sys; {BLOCKED}; {imports}")


def test_every_name_of_the_package_is_there_and_loads_no_other_part():
    """H176: a name is looked up when it is asked for."""
    for name in resilience.__all__:
        assert getattr(resilience, name).__module__.startswith("txpatterns.resilience.")
    with pytest.raises(AttributeError, match="Breakers"):
        resilience.Breakers  # noqa: B018 - asking for it is the test
    run(f"import sys; {BLOCKED}; from txpatterns.resilience import Bulkhead, Cache, RateLimit, is_outage")


@pytest.mark.parametrize("module", ["txpatterns.telemetry.failures", "txpatterns.sagas"])
def test_who_hears_of_them_loads_none(module):
    """H176: moments and errors are there without the extra."""
    run(f"import sys; {BLOCKED}; import {module}")
