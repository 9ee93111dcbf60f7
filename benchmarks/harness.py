"""Runs cases in turn, round by round, so that a busy machine slows all of them alike; only ratios mean anything."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run came to: its figure, and what else was counted, by the name of its column."""

    figure: float
    extras: Mapping[str, float] = field(default_factory=dict)


Run = Callable[[], Awaitable[float | Sample]]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to do the work: ``run`` does it once and gives its figure. ``base`` names what it is compared to."""

    name: str
    run: Run
    base: str | None = None
    goal: float | None = None
    """The ratio that we want to reach against the base."""
    also: Mapping[str, float | None] = field(default_factory=dict)
    """Further bases, each with its goal or None."""
    most: Mapping[str, float] = field(default_factory=dict)
    """The most that we want to see in a further column."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios taken round by round."""

    base: str
    value: float
    goal: float | None


@dataclass(frozen=True, slots=True)
class Extra:
    """The median of a further column."""

    value: float
    most: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """What came out for one case."""

    name: str
    median: float
    low: float
    high: float
    ratios: list[Ratio]
    extras: dict[str, Extra]


@dataclass(slots=True)
class Table:
    """All lines of one benchmark. ``lower_is_better``: a goal is then the most that is wanted, not the least."""

    title: str
    unit: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lower_is_better: bool = False
    rounds: int = 0
    when: str = ""
    ran_on: dict[str, str] = field(default_factory=dict)


async def compare(title: str, unit: str, cases: Sequence[Case], rounds: int, *, lower_is_better: bool = False) -> Table:
    """Run every case once per round, the order turning from round to round, and compare within each round."""
    figures: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for number in range(rounds):
        started, turn = time.perf_counter(), number % len(cases)
        for case in [*cases[turn:], *cases[:turn]]:
            found = await case.run()
            figures[case.name].append(found if isinstance(found, Sample) else Sample(found))
        taken = time.perf_counter() - started
        print(f"  {title}: round {number + 1} of {rounds}, {taken:.0f} s", file=sys.stderr, flush=True)
    lines = [_line(case, figures) for case in cases]
    now = datetime.now(UTC).isoformat(timespec="minutes")
    return Table(title, unit, lines, lower_is_better=lower_is_better, rounds=rounds, when=now)


def _line(case: Case, figures: Mapping[str, Sequence[Sample]]) -> Line:
    own = figures[case.name]
    bases = ({case.base: case.goal} if case.base is not None else {}) | dict(case.also)
    ratios = [
        Ratio(base, statistics.median(a.figure / b.figure for a, b in zip(own, figures[base], strict=True)), goal)
        for base, goal in bases.items()
    ]
    extras = {
        name: Extra(statistics.median(sample.extras[name] for sample in own), case.most.get(name))
        for name in own[0].extras
    }
    values = [sample.figure for sample in own]
    return Line(case.name, statistics.median(values), min(values), max(values), ratios, extras)
