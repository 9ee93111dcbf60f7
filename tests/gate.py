"""The everyday gate: the whole suite, first the files that bear company, several at a time, then the others alone.

Each test runs once. What the parts print is summed up at the end, in pytest's own words: that line is the verdict.
`python tests/gate.py tests/outbox -k relay` takes pytest's arguments, for all parts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from progress import Progress

WORKERS = min((os.cpu_count() or 1) + 1, 4)
"""One more than there are cores, since many tests wait; each has servers of its own, a PostgreSQL and a Kafka too."""
PARTS = {
    f"{WORKERS} files at a time": ["-n", str(WORKERS), "--dist", "loadfile", "-m", "not soak and not alone"],
    "one file at a time": ["-n", "0", "-m", "alone and not soak"],
}
SHOWN = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")
SLOWEST = 10
NOTHING_CHOSEN = pytest.ExitCode.NO_TESTS_COLLECTED


def main(arguments: list[str]) -> int:
    began, codes = time.monotonic(), []
    counts, seconds = Counter[str](), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="txp-gate-") as folder:
        for number, (name, options) in enumerate(PARTS.items()):
            print(f"\n{name}:", flush=True)
            told = Path(folder, str(number))
            command = [sys.executable, "-u", __file__, "--part", str(told), *options, *arguments]
            codes.append(subprocess.run(command, check=False).returncode)
            if told.exists():
                found = json.loads(told.read_text())
                counts.update(found["counts"])
                seconds.update(found["seconds"])
    slowest = sorted(seconds.items(), key=lambda file: -file[1])[:SLOWEST]
    print("\nThe slowest files:", *(f"{taken:7.1f} s  {file}" for file, taken in slowest), sep="\n")
    print(f"\n{summary(counts, time.monotonic() - began)}", flush=True)
    return worst(codes)


def summary(counts: Counter[str], taken: float) -> str:
    """The line that pytest ends with, for all parts together."""
    parts = [f"{counts[kind]} {kind}" for kind in SHOWN if counts[kind]]
    minutes, rest = divmod(round(taken), 60)
    line = f" {', '.join(parts) or 'no tests ran'} in {taken:.2f}s ({minutes // 60}:{minutes % 60:02}:{rest:02}) "
    return line.center(100, "=")


def worst(codes: list[int]) -> int:
    """The exit code of the gate: that of the first part that failed; a part without tests is none."""
    ran = [code for code in codes if code != NOTHING_CHOSEN]
    return next((code for code in ran if code), 0) if ran else int(NOTHING_CHOSEN)


def part(told: Path, options: list[str]) -> int:
    return int(pytest.main(["-q", *options], plugins=[Progress(told)]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        sys.exit(part(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
