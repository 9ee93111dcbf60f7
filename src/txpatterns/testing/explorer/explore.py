"""Exploring: count the points of a flow, then run a case for every point and fault, in several processes."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from txpatterns.testing.explorer.cases import Case, Options, Runner, Verdict, all_cases, some_cases
from txpatterns.testing.explorer.flows import Flow
from txpatterns.testing.explorer.points import Injection, Point
from txpatterns.testing.explorer.process import fork
from txpatterns.testing.explorer.world import World, world_for

T = TypeVar("T")


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
            self.executed[verdict.case.injection.mode] += 1
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
    """Explore a flow, with a worker for each of the database URLs; a PostgreSQL database is emptied.

    Raises:
        Broken: the flow fails without any fault.
    """
    options = options or Options()
    began = time.monotonic()
    with _worlds(urls) as worlds:
        points = _apart(lambda: [str(point) for point in _count(flow, worlds[0], options.seed)])
        every = all_cases(flow.name, [Point.parse(point) for point in points], options.modes)
        cases = some_cases(every, options)
        report = Report(options.seed, Counter({flow.name: len(points)}))
        for verdict in _run_all(flow, worlds, cases, options):
            report.note(verdict)
    report.seconds = time.monotonic() - began
    return report


def _count(flow: Flow[Any], world: World, seed: int) -> list[Point]:
    runner = Runner(flow, world, seed)
    runner.prepare()
    return runner.points()


def _run_all(flow: Flow[Any], worlds: Sequence[World], cases: Sequence[Case], options: Options) -> Iterator[Verdict]:
    def shard(number: int) -> Iterator[Verdict]:
        runner = Runner(flow, worlds[number], options.seed)
        runner.prepare()
        for case in cases[number :: len(worlds)]:
            verdict = runner.run(case)
            yield verdict if verdict.fired else runner.run(case)
            if verdict.wrong and options.stop_at_first:
                return

    workers = [_Worker(lambda number=number: map(_packed, shard(number))) for number in range(len(worlds))]  # type: ignore[misc]
    for record in _gather(workers):
        yield _unpacked(record)


@contextmanager
def _worlds(urls: Sequence[str]) -> Iterator[list[World]]:
    # Memory rather than disk, where there is one: a killed process loses nothing that it has written to either.
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    folder = Path(tempfile.mkdtemp(prefix="txp-explorer-", dir=shared if os.access(shared, os.W_OK) else None))
    try:
        yield [world_for(url, folder / str(number)) for number, url in enumerate(urls)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class WorkerFailed(RuntimeError):
    """A worker of the explorer ended with an error of its own; the text is its traceback."""


class _Worker:
    """A process, forked once and free of threads, that runs cases and tells what came of them, line by line."""

    def __init__(self, work: Callable[[], Iterator[Any]]) -> None:
        self.reader, writer = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            os.close(self.reader)
            _work(work, writer)
        os.close(writer)
        self.rest = b""


def _work(work: Callable[[], Iterator[Any]], writer: int) -> None:
    code = 1
    try:
        for record in work():
            _write(writer, {"result": record})
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        _write(writer, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(code)


def _write(file: int, record: object) -> None:
    data = json.dumps(record).encode() + b"\n"
    while data:
        data = data[os.write(file, data) :]


def _gather(workers: Sequence[_Worker]) -> Iterator[Any]:
    selector = selectors.DefaultSelector()
    for worker in workers:
        selector.register(worker.reader, selectors.EVENT_READ, worker)
    try:
        while selector.get_map():
            for key, _ in selector.select():
                yield from _lines(key.data, selector)
    finally:
        for worker in workers:
            os.close(worker.reader)
        codes = [os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1]) for worker in workers]
        selector.close()
    if any(codes):
        raise WorkerFailed(f"workers ended with {codes}")


def _lines(worker: _Worker, selector: selectors.BaseSelector) -> Iterator[Any]:
    data = os.read(worker.reader, 65536)
    if not data:
        selector.unregister(worker.reader)
        return
    *lines, worker.rest = (worker.rest + data).split(b"\n")
    for line in lines:
        record = json.loads(line)
        if "error" in record:
            raise WorkerFailed(record["error"])
        yield record["result"]


def _apart(work: Callable[[], list[T]]) -> list[T]:
    """Run something in a worker of its own, so that nothing of it stays in this process."""
    return list(_gather([_Worker(lambda: iter(work()))]))


def _packed(verdict: Verdict) -> dict[str, Any]:
    second = verdict.case.second
    return {
        "flow": verdict.case.flow,
        "injection": str(verdict.case.injection),
        "second": str(second) if second else None,
        "fired": verdict.fired,
        "wrong": verdict.wrong,
        "output": verdict.output if verdict.wrong else "",
    }


def _unpacked(record: dict[str, Any]) -> Verdict:
    second = Injection.parse(record["second"]) if record["second"] else None
    case = Case(record["flow"], Injection.parse(record["injection"]), second)
    return Verdict(case, record["fired"], record["wrong"], record["output"])
