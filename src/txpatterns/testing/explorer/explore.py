"""Exploring: count the points of a flow, then run a case for every point and fault, in several processes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from txpatterns.testing.explorer.apart import apart, check_that_it_travels
from txpatterns.testing.explorer.cases import ENDLESS, Case, Options, Runner, Verdict, cases_of, endless
from txpatterns.testing.explorer.flows import Flow
from txpatterns.testing.explorer.points import Point
from txpatterns.testing.explorer.world import world_for

_TRIES = 3
"""How often a case is run whose point is not come to."""
_ROOM = 64 * 1024 * 1024
"""Bytes that must be free where the databases of an exploration are kept: they take about a twentieth of it."""


@dataclass(slots=True)
class Report:
    """What was explored, and what went wrong."""

    seed: int
    points: Counter[str] = field(default_factory=Counter)
    """How many points each flow has."""
    executed: Counter[str] = field(default_factory=Counter)
    """How many cases struck, by fault."""
    unfired: list[Case] = field(default_factory=list)
    """Cases whose point was not come to: tasks took turns differently. They prove nothing and are not counted."""
    failures: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """How many cases struck."""
        return self.executed.total()

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.points += other.points
        self.executed += other.executed
        self.unfired += other.unfired
        self.failures += other.failures
        self.seconds += other.seconds

    def note(self, verdict: Verdict) -> None:
        """Count a case."""
        if verdict.wrong:
            self.failures.append(verdict)
        if verdict.fired:
            self.executed[verdict.case.kind] += 1
        else:
            self.unfired.append(verdict.case)

    def __str__(self) -> str:
        by_mode = ", ".join(f"{mode} {times}" for mode, times in sorted(self.executed.items()))
        summary = (
            f"{self.total} crash points executed of {sum(self.points.values())} points in {len(self.points)} flows "
            f"({by_mode}); {len(self.failures)} failed, {len(self.unfired)} not reached; "
            f"{self.seconds:.0f} s, seed {self.seed}"
        )
        lines = [summary]
        for verdict in self.failures[:5]:
            lines += [f"FAILED {verdict.case}", f"  {verdict.wrong}", f"  repeat: only={str(verdict.case)!r}"]
        return "\n".join(lines)


def explore_flow(flow: Flow[Any], urls: Sequence[str] = ("sqlite", "sqlite"), options: Options | None = None) -> Report:
    """Explore a flow in fresh processes, one for each of the database URLs; a PostgreSQL database is emptied.

    Nothing of the calling process is taken over but its environment and import path, so the flow's functions must be
    importable: defined at the top of a module, given arguments with ``functools.partial``.

    Raises:
        Broken: the flow fails, or breaks an invariant, without any fault.
        ConfigurationError: the flow cannot be told to another process.
    """
    options = options or Options()
    check_that_it_travels(flow, f"The flow {flow.name!r}")
    began = time.monotonic()
    with _folder() as folder:
        places = [_Place(url, folder / str(number)) for number, url in enumerate(urls)]
        (points,) = apart([partial(_count, flow, places[0], options.seed)])
        cases = cases_of(flow.name, points, options)
        report = Report(options.seed, Counter({flow.name: len(points)}))
        shares = [cases[number :: len(places)] for number in range(len(places))]
        strike = partial(_strike, flow, options, endless(len(points)))
        strikes = [partial(strike, place, share) for place, share in zip(places, shares, strict=True)]
        for verdict in chain.from_iterable(apart(strikes)):
            report.note(verdict)
    report.seconds = time.monotonic() - began
    return report


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    folder: Path

    @contextmanager
    def runner(self, flow: Flow[Any], seed: int, most: int = ENDLESS) -> Iterator[Runner]:
        with closing(world_for(self.url, self.folder)) as world:
            runner = Runner(flow, world, seed, most)
            runner.prepare()
            yield runner


def _count(flow: Flow[Any], place: _Place, seed: int) -> list[Point]:
    with place.runner(flow, seed) as runner:
        again = set(runner.points())
        return [point for point in runner.points() if point in again]  # but not what came about by chance


def _strike(flow: Flow[Any], options: Options, most: int, place: _Place, cases: Sequence[Case]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    found = place.folder.parent / "found"  # all of them see it
    with place.runner(flow, options.seed, most) as runner:
        for case in cases:
            if found.exists():
                break
            verdicts.append(_reached(runner, case))
            further = runner.again(case, options.again)
            verdicts.extend(_reached(runner, second) for second in further)
            if options.stop_at_first and any(verdict.wrong for verdict in verdicts[-1 - len(further) :]):
                found.touch()
    return verdicts


def _reached(runner: Runner, case: Case) -> Verdict:
    """Run a case until its point is come to: tasks may take turns differently."""
    verdict = runner.run(case)
    for _ in range(_TRIES - 1):
        if verdict.fired or verdict.wrong:
            break
        verdict = runner.run(case)
    return verdict


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="txp-explorer-", dir=_memory(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _memory() -> Path | None:
    """Say where memory is a folder, if there is room: a killed process loses nothing that it has written to a file."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    there = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= _ROOM
    return shared if there else None
