"""The first start from a clone: whoever waits sees what for."""

import importlib.util
import sys
from pathlib import Path

import pytest

PIP = """
print("Collecting fastapi")
print("  Using cached fastapi.whl (1 kB)")
print("  Downloading starlette.whl (1 kB)")
print("Installing collected packages: a, b")
"""


@pytest.fixture
def environment():
    file = Path(__file__).resolve().parents[3] / ".ci" / "environment.py"
    spec = importlib.util.spec_from_file_location("ci_environment", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_of_the_set_up_is_told(environment, capsys):
    """H246: each step is a line with the time since the start; what is no step is left out."""
    environment._run_and_tell([sys.executable, "-c", PIP])
    told = [line.split(" s  ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["Collecting fastapi", "Downloading starlette.whl (1 kB)", "Installing collected packages: a, b"]


def test_a_set_up_that_fails_says_so(environment):
    """H246: the command ends, and says what to do."""
    with pytest.raises(SystemExit, match="run the command again"):
        environment._run_and_tell([sys.executable, "-c", "raise SystemExit(1)"])
