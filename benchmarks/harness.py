"""Runs cases in turn, round by round, so that a busy machine slows all of them alike; only ratios mean anything."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Run = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to do the work: ``run`` does it once and gives its figure. ``base`` names what it is compared to."""

    name: str
    run: Run
    base: str | None = None
    goal: float | None = None
    """The ratio that we want to reach against the base."""


@dataclass(frozen=True, slots=True)
class Line:
    """What came out for one case: the median figure, and the median of the ratios taken round by round."""

    name: str
    median: float
    low: float
    high: float
    ratio: float | None
    base: str | None
    goal: float | None


@dataclass(slots=True)
class Table:
    """All lines of one benchmark."""

    title: str
    unit: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def compare(title: str, unit: str, cases: Sequence[Case], rounds: int) -> Table:
    """Run every case once per round, the order turning from round to round, and compare within each round."""
    figures: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds):
        turn = number % len(cases)
        for case in [*cases[turn:], *cases[:turn]]:
            figures[case.name].append(await case.run())
        print(f"  {title}: round {number + 1} of {rounds}", file=sys.stderr)
    return Table(title, unit, [_line(case, figures) for case in cases])


def _line(case: Case, figures: Mapping[str, Sequence[float]]) -> Line:
    own = figures[case.name]
    ratio = None
    if case.base is not None:
        ratio = statistics.median(a / b for a, b in zip(own, figures[case.base], strict=True))
    return Line(case.name, statistics.median(own), min(own), max(own), ratio, case.base, case.goal)


def machine() -> dict[str, str]:
    """Say what this ran on."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        **{name: _version(name) for name in _PACKAGES},
    }


_PACKAGES = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "confluent-kafka", "pydantic", "txoutbox")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def markdown(tables: Sequence[Table], ran_on: Mapping[str, str]) -> str:
    """Write the page for the documentation."""
    text = ["# Benchmarks\n"]
    text.append(
        "Written by `tox run -e bench`; do not edit. Read the ratios: both sides of each ran in turn in one run.\n"
    )
    text.append("Ran on: " + ", ".join(f"{name} {value}" for name, value in ran_on.items()) + ".\n")
    for table in tables:
        text.append(f"## {table.title}\n")
        text.append(f"| case | {table.unit}, median | lowest to highest | ratio | to | goal |")
        text.append("|---|---:|---:|---:|---|---:|")
        for line in table.lines:
            ratio = f"{line.ratio:.2f}" if line.ratio is not None else ""
            goal = f"{line.goal:g}" if line.goal is not None else ""
            spread = f"{line.low:,.4g} to {line.high:,.4g}"
            text.append(f"| {line.name} | {line.median:,.4g} | {spread} | {ratio} | {line.base or ''} | {goal} |")
        text.append("")
        text.extend(f"{note}\n" for note in table.notes)
    return "\n".join(text)


def save(tables: Sequence[Table], page: Path, data: Path) -> None:
    """Write the page and the figures behind it."""
    ran_on = machine()
    page.write_text(markdown(tables, ran_on))
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps({"machine": ran_on, "tables": [asdict(table) for table in tables]}, indent=1))
