"""What the gate prints while it runs: each file when it is done, each failure at once."""

import json
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest


class Progress:
    """A plugin of pytest in the place of its dots. Leaves the counts and the seconds of each file in ``told``."""

    def __init__(self, told: Path) -> None:
        self._told = told
        self._config: pytest.Config | None = None
        self._to_come: Counter[str] = Counter()
        self._all = 0
        self._done: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config

    # How many tests each file has.

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Each worker collects everything, and the controller nothing."""
        if not self._to_come:
            self._expect(ids)

    def _expect(self, nodes: Iterable[str]) -> None:
        self._to_come = Counter(map(file_of, nodes))
        self._all = self._to_come.total()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has no tests, but fails all the same."""
        if report.failed:
            self._done[file_of(report.nodeid)]["error"] += 1
            self._write(f"FAILED {report.nodeid} (collect): {why(report)}", red=True)

    # What became of them.

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Any, Any]:
        category, letter, word = yield
        if not isinstance(report, pytest.TestReport):
            return category, letter, word
        if category:
            self._done[file_of(report.nodeid)][category] += 1
        return category, "", "" if category in ("", "passed") else word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[file_of(report.nodeid)] += report.duration
        if report.failed:
            self._write(f"FAILED {report.nodeid} ({report.when}): {why(report)}", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        file = file_of(nodeid)
        self._to_come[file] -= 1
        if self._to_come[file] == 0:
            counts = ", ".join(f"{times} {category}" for category, times in sorted(self._done[file].items()))
            done = 1 - self._to_come.total() / self._all
            self._write(f"{done:4.0%}  {self._seconds[file]:6.1f} s  {file}: {counts}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        counts: Counter[str] = sum(self._done.values(), Counter())
        self._told.write_text(json.dumps({"counts": counts, "seconds": self._seconds}))

    def _write(self, line: str, **style: bool) -> None:
        assert self._config is not None
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        terminal.write_line(line, **style)


def why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Give the line that says most: the message of what was raised, or else the last one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash is not None else report.longrepr).strip().splitlines()
    return "" if not lines else lines[0] if crash is not None else lines[-1]


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
