"""Telemetry that is not used is not there."""

import subprocess
import sys
from contextlib import nullcontext

import pytest

from txpatterns.hooks import HookList
from txpatterns.inbox.moments import Handling
from txpatterns.telemetry.failures import FailureLog

MODULES = {
    "txpatterns.telemetry.tracing": "opentelemetry",
    "txpatterns.telemetry.metrics": "opentelemetry",
    "txpatterns.telemetry.logs": "structlog",
    "txpatterns.telemetry.logging_setup": "structlog",
}


def run(script):
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_the_library_and_its_hooks_load_none_of_it():
    """Off means free: an installation without telemetry does not even look for it."""
    names = run(
        "import sys, txpatterns, txpatterns.hooks, txpatterns.telemetry, txpatterns.text;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ).split()
    assert not {"opentelemetry", "structlog", "prometheus_client"} & set(names)


@pytest.mark.parametrize(("module", "library"), MODULES.items())
def test_each_module_loads_only_its_own_library(module, library):
    """Logs without OpenTelemetry, traces without structlog."""
    other = ({"opentelemetry", "structlog"} - {library}).pop()
    found = run(f"import sys, {module}; print({library!r} in sys.modules, {other!r} in sys.modules)")
    assert found.split() == ["True", "False"]


def test_tracing_and_metrics_need_the_api_alone():
    """The SDK is the application's choice."""
    found = run(
        "import sys, txpatterns.telemetry.tracing, txpatterns.telemetry.metrics;"
        "print('opentelemetry.sdk' in sys.modules, 'opentelemetry.semconv' in sys.modules)"
    )
    assert found.split() == ["False", "False"]


@pytest.mark.parametrize(("module", "library"), MODULES.items())
def test_a_missing_library_is_named_with_its_remedy(module, library):
    """The error says what to type."""
    found = run(
        f"import sys; sys.modules[{library!r}] = None\n"
        "from txpatterns.errors import MissingExtra\n"
        f"try:\n    import {module}\nexcept MissingExtra as error:\n    print(error)"
    )
    assert "pip install 'txpatterns[telemetry]'" in found


def test_what_nobody_wants_to_hear_calls_nobody(make, monkeypatch):
    """Off means free: a listener is found by the class of the moment, and the others are not even asked."""
    hooks, asked = HookList([FailureLog()]), []
    monkeypatch.setattr(FailureLog, "methods", lambda _listener, kind: asked.append(kind) or ())
    for _ in range(3):
        assert isinstance(hooks.within(Handling(make(), "packing", 1)), nullcontext)
    assert asked == [Handling]
