"""Run a Markdown page as a reader would: `python tests/smoke/readme.py README.md`.

Two comments in the page, invisible to its readers, say what to do with the block that follows:
`<!-- file: NAME -->` writes the block to a file, `<!-- run -->` types its `$` lines into a shell, in an empty
folder, and compares what is seen with the lines below each, where `...` stands for anything. A command that is
killed shows `Killed`, as in a terminal; any other failure ends the run.

With `--install` the block marked `<!-- install -->` is typed before, in a copy of this checkout, and the rest goes on
where that has led: in its folder, with its Python. Without it, the package is there already.
"""

import doctest
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK = re.compile(
    r"^<!-- (file: (?P<name>\S+)|(?P<install>install)|run) -->\n+```\w*[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LONGEST = 60.0  # seconds for one command
ROOT = Path(__file__).resolve().parent.parent.parent
NOT_IN_A_CLONE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "site", "*.db*", "*.egg-info")


def run(page: Path, *, installing: bool) -> int:
    """Do what the page says; return the number of commands that were run."""
    done = 0
    with tempfile.TemporaryDirectory(prefix="txp-readme-") as name:
        folder, programs = Path(name), Path(sys.executable).parent
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if block["install"]:
                if installing:
                    folder, programs = install([command for command, _ in commands(block["text"])], folder)
            elif block["name"]:
                (folder / block["name"]).write_text(block["text"], encoding="utf-8")
            else:
                for command, expected in commands(block["text"]):
                    check(command, expected, folder, programs)
                    done += 1
    return done


def install(typed: list[str], folder: Path) -> tuple[Path, Path]:
    """Type these commands into one shell in a copy of this checkout; say where that leads, and where its Python is."""
    if importlib.util.find_spec("ensurepip") is None:
        print("This Python is without python3-venv, which the page asks for; virtualenv takes its place.")
        typed = [command.replace("python3 -m venv", f"{sys.executable} -m virtualenv") for command in typed]
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_IN_A_CLONE)
    print(*(f"$ {command}" for command in typed), sep="\n", flush=True)
    script = "\n".join(["set -e", *typed, "pwd", "command -v txp"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    shell = ["bash", "-c", script]
    shown = subprocess.run(shell, check=True, cwd=folder / "clone", env=environment, stdout=subprocess.PIPE, text=True)
    place, program = shown.stdout.splitlines()[-2:]
    if not program.startswith(place):
        sys.exit(f"the page's commands have led to {place}, and to {program} outside of it")
    return Path(place), Path(program).parent


def commands(text: str) -> list[tuple[str, str]]:
    """Split a console block into pairs of a command and the output shown below it."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def check(command: str, expected: str, folder: Path, programs: Path) -> None:
    """Run one command in `folder`; end the process with both outputs when they differ."""
    began = time.monotonic()
    print(f"$ {command}", flush=True)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # A terminal shows a line when it is written; into a pipe, what a killed process had buffered would be lost.
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        seen, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        seen, _ = process.communicate()
        sys.exit(f"{seen}\nstill running after {LONGEST:.0f} s")
    killed = process.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}
    if killed and "Killed" not in seen:
        seen += "Killed\n"
    print(seen, end="", flush=True)
    if process.returncode and not killed:
        sys.exit(f"ended with {process.returncode}")
    if not doctest.OutputChecker().check_output(expected, seen, LOOSELY):
        sys.exit(f"--- the page shows:\n{expected}")
    print(f"  ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    count = run(Path(sys.argv[1]), installing="--install" in sys.argv)
    if not count:
        sys.exit(f"{sys.argv[1]} has nothing marked <!-- run -->")
    print(f"{sys.argv[1]}: {count} commands ran as shown, Python {sys.version.split()[0]}")
