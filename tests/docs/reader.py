"""Does what a page of the documentation says: writes its files, types its commands, and compares what is seen."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType

from rig.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCS, SNIPPETS = ROOT / "docs", ROOT / "docs" / "snippets"

LESSONS = {
    "index.md": 4,
    "tutorial/survive-a-kill.md": 8,
    "tutorial/handlers-and-retries.md": 1,
    "tutorial/first-saga.md": 12,
    "tutorial/reserve-confirm-cancel.md": 8,
    "tutorial/breaker.md": 2,
    "how-to/change-a-running-saga.md": 3,
    "how-to/saga-needs-you.md": 6,
}
"""The pages that are typed from top to bottom, with how many commands each has at least."""

INCLUDE = re.compile(r'^--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)
SECTION = re.compile(r"^\s*# --8<-- \[(?:start|end):[\w-]+\]\n", re.MULTILINE)
BLOCK = re.compile(
    r"^<!-- (file: (?P<file>\S+)|(?P<run>run[\w: ]*)) -->\n+```[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LOGGED = re.compile(
    r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?:INFO|WARNING) .*"  # as the command writes them
    r"|(?:\S+: )?\S+ failed at \S+ \S+ on \S+ in attempt \d+: .*"  # as Python does where nothing is set up
    r"|\S+ \S+ on \S+ is a dead letter, .*"
    r"|(?:\S+: ){1,2}\S+ failed for \S+ in attempt \d+: .*"
    r"|(?:\S+: )?\S+ \S+ needs a person: .*)\n",
    re.MULTILINE,
)
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CHANGING = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d[T ][\d:.]+(?:\+00:00)?")
PATIENCE = timedelta(seconds=180)
"""For one command."""


def expanded(text: str) -> str:
    """The text of a page with its snippets in it."""
    return INCLUDE.sub(lambda found: included(found[1], found[2]).rstrip("\n"), text)


def included(path: str, section: str | None) -> str:
    """A file that a page shows, or one section of it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if section is not None:
        marks = [f"# --8<-- [{edge}:{section}]\n" for edge in ("start", "end")]
        text = text.split(marks[0])[1].split(marks[1])[0]
    return SECTION.sub("", text)


def load(name: str) -> ModuleType:
    """A file that the site is built with."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(expected: str, seen: str) -> bool:
    """Whether two outputs say the same, but for log lines, ids, times, and what `...` stands for."""
    plain = [CHANGING.sub("<changing>", text) for text in (expected, LOGGED.sub("", seen))]
    return doctest.OutputChecker().check_output(plain[0], plain[1], LOOSELY)


@dataclass
class Reader:
    """Somebody who follows a page, in a folder of their own."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def follow(self, page: Path, kind: str = "run") -> int:
        """Write the page's files and run its blocks of this kind; says how many commands that were."""
        done = 0
        for block in BLOCK.finditer(expanded(page.read_text(encoding="utf-8"))):
            if block["file"]:
                (self.folder / block["file"]).write_text(block["text"], encoding="utf-8")
            elif block["run"] == kind:
                for command, expected in commands(block["text"]):
                    self.type(command, expected)
                    done += 1
        return done

    def type(self, command: str, expected: str) -> None:
        """Run a command; one whose output ends with ^C is interrupted when it has said the rest."""
        if command.startswith("export "):
            self.environment = {**self.environment, **dict(each.split("=", 1) for each in command.split()[1:])}
            return
        interrupt = expected.rstrip().endswith("^C")
        wanted = expected.rstrip().removesuffix("^C")
        seen, code = self.output(command, wanted if interrupt else None)
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            seen = seen if "Killed" in seen else f"{seen}Killed\n"
        elif code and not interrupt:
            raise AssertionError(f"$ {command}\n{seen}\nended with {code}")
        assert same(wanted, seen), f"$ {command}\n--- the page shows\n{expected}\n--- seen\n{seen}"

    def output(self, command: str, until: str | None = None) -> tuple[str, int]:
        """Run a command; gives all that it printed, and its exit code. It is interrupted when it has said ``until``."""
        printed = self.folder / ".output"
        with printed.open("wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env={**_clean(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if until is not None:
                    self._interrupt_after(process, printed, until)
                code = process.wait(PATIENCE.total_seconds())
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return printed.read_text(encoding="utf-8"), code

    def _interrupt_after(self, process: subprocess.Popen[bytes], output: Path, wanted: str) -> None:
        def is_over() -> bool:
            return process.poll() is not None or same(wanted, output.read_text(encoding="utf-8"))

        wait_until(is_over, what=wanted, within=PATIENCE)
        os.killpg(process.pid, signal.SIGINT)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """A console block as pairs of a command and the output shown below it."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def _clean() -> dict[str, str]:
    """This process's environment without our settings, and with its Python in front."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TXP_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "PYTHONUNBUFFERED": "1"}
