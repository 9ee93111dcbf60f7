"""The gate itself: what it says of a run is what happened in the whole of it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import gate

ROOT = Path(gate.__file__).resolve().parent.parent
CONFIGURATION = """
[pytest]
markers =
    alone: needs the machine for itself
    soak: the large figures
"""
GOOD = "def test_good(): pass\n"
BAD = "def test_bad():\n    assert 1 == 2, 'one is not two'\n"
SLOW = (
    "import pytest\n\n@pytest.mark.alone\ndef test_by_itself(): pass\n\n@pytest.mark.soak\ndef test_large(): assert 0\n"
)


def run(folder: Path, files: dict[str, str]) -> tuple[int, list[str]]:
    (folder / "pytest.ini").write_text(CONFIGURATION)
    for name, text in files.items():
        (folder / name).write_text(text)
    command = [sys.executable, gate.__file__, "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout.splitlines()


def shown_by_ci(lines: list[str]) -> str:
    """What `.ci/run` repeats at its end: the last line that its own pattern finds."""
    pattern = re.search(r"grep -E '([^']+)'", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    return [line for line in lines if re.search(pattern[1], line)][-1]


def test_the_last_line_counts_the_whole_run(tmp_path: Path):
    """H234: not the last part alone."""
    code, lines = run(tmp_path, {"test_a.py": GOOD, "test_b.py": GOOD, "test_c.py": SLOW})
    assert code == 0
    assert lines[-1] == shown_by_ci(lines)
    assert " 3 passed in " in lines[-1]


def test_a_failure_is_named_when_it_happens_and_fails_the_gate(tmp_path: Path):
    """H234: it is tried once, counted, and no later part hides it."""
    code, lines = run(tmp_path, {"test_a.py": BAD, "test_c.py": SLOW})
    assert code == 1
    named = next(number for number, line in enumerate(lines) if line.startswith("FAILED test_a.py::test_bad (call)"))
    assert "one is not two" in lines[named]
    assert named < next(number for number, line in enumerate(lines) if "FAILURES" in line)
    assert sum("one file at a time" in line for line in lines) == 1
    assert " 1 failed, 1 passed in " in shown_by_ci(lines)


def test_progress_names_each_file_when_it_is_done(tmp_path: Path):
    """H234: with its counts, in either part."""
    _, lines = run(tmp_path, {"test_a.py": GOOD + BAD, "test_c.py": SLOW})
    done = [line for line in lines if re.match(r" *\d+%", line)]
    assert [line.partition(" s  ")[2] for line in done] == ["test_a.py: 1 failed, 1 passed", "test_c.py: 1 passed"]


def test_a_file_that_cannot_be_imported_is_no_green_run(tmp_path: Path):
    """H234: without it there seems to be nothing that could fail."""
    code, lines = run(tmp_path, {"test_a.py": "import no_such_module\n", "test_b.py": GOOD})
    assert code != 0
    assert any(line.startswith("FAILED test_a.py (collect): ") and "no_such_module" in line for line in lines)
    assert "error in " in shown_by_ci(lines)


def test_a_part_that_ends_badly_is_not_covered_by_the_next():
    """H234: an interrupt, an internal error; but a part without tests is none."""
    assert gate.worst([0, gate.NOTHING_CHOSEN]) == 0
    assert gate.worst([gate.NOTHING_CHOSEN, 0]) == 0
    assert gate.worst([pytest.ExitCode.INTERRUPTED, 0]) == pytest.ExitCode.INTERRUPTED
    assert gate.worst([0, pytest.ExitCode.TESTS_FAILED]) == pytest.ExitCode.TESTS_FAILED
    assert gate.worst([gate.NOTHING_CHOSEN] * 2) == gate.NOTHING_CHOSEN


@pytest.fixture
def pins() -> Any:
    spec = importlib.util.spec_from_file_location("pins", ROOT / ".ci" / "pins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / ".ci" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_oldest_that_are_tried_are_the_oldest_that_are_allowed(pins: Any):
    """H235: a bound that is raised or lowered, and not tried."""
    assert pinned("oldest.txt") == pins.oldest(), "run: python3 tests run -e pins"


def test_whatever_is_asked_for_is_pinned(pins: Any):
    """H235: two runs differ by the machine alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    asked = {pins.normal(re.match(r"[\w.-]+", line)[0]) for line in lines if "sys_platform" not in line}  # type: ignore[index]
    assert asked - pinned("constraints.txt").keys() <= pins.OURS, "run: python3 tests run -e pins"
