"""Make the environment `.venv` of this checkout with nothing but Python 3.11 or newer: no pip, no venv package.

`python3 -m venv` needs `ensurepip`, which Debian keeps in a package of its own. Where it is absent, the environment
is made without pip, and pip's own wheel, which runs without being installed, is fetched from the index and checked.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STEPS = {"Building", "Collecting", "Downloading", "Installing", "Obtaining", "Preparing", "Successfully"}
"""The first words of those lines of pip that say what it is at."""
WIDTH = 70
PIP_CONFIGURATIONS = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


def install(name: str, *requirements: str) -> None:
    """Install `requirements` into `.venv` once; again only after a pyproject.toml or the constraints have changed."""
    if sys.version_info < (3, 11):
        sys.exit("txpatterns needs Python 3.11 or newer; this is " + sys.version.split()[0])
    stamp, state = VENV / ("." + name), _state(requirements)
    if stamp.exists() and stamp.read_text() == state:
        return
    print("Setting up .venv for the", name, "(once, a minute or two) ...", file=sys.stderr, flush=True)
    options = ["install", "--progress-bar=off", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
    _run_and_tell([*_pip(), *options, *requirements])
    stamp.write_text(state)


def _run_and_tell(command: list[str]) -> None:
    """Run pip and say at every step what it does and since when: it may take a while, and silence looks like a hang."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():
            words = line.split()
            if words and words[0] in STEPS:
                told = " ".join(words)[:WIDTH]
                print(f"  {time.monotonic() - started:4.0f} s  {told}", file=sys.stderr, flush=True)
    if running.returncode:
        sys.exit("Setting up .venv failed; pip says above why. What is set up so far is kept: run the command again")


def replace_process(command: str, *arguments: str) -> None:
    """Become `command` of the environment, so that signals and exit codes are its own."""
    os.chdir(ROOT)
    program = str(BIN / command)
    if os.name == "nt":
        sys.exit(subprocess.run([program, *arguments], check=False).returncode)
    os.execv(program, [program, *arguments])


def _state(requirements: tuple[str, ...]) -> str:
    files = (ROOT / "pyproject.toml", ROOT / "examples/shop/pyproject.toml", CONSTRAINTS)
    digest = hashlib.sha256(repr((requirements, sys.version)).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _pip() -> list[str]:
    python = BIN / "python"
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not python.exists():
        without = [] if with_pip else ["--without-pip"]
        subprocess.run([sys.executable, "-m", "venv", *without, str(VENV)], check=True)
    if subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        return [str(python), "-m", "pip"]
    wheel = VENV / "pip.whl"
    if not wheel.exists():
        wheel.write_bytes(_fetch_pip())
    return [str(python), str(wheel / "pip")]


def _fetch_pip() -> bytes:
    index = _index().rstrip("/") + "/pip/"
    with urllib.request.urlopen(index) as page:
        links = re.findall(r'href="([^"]*/pip-([0-9.]+)-py3-none-any\.whl)#sha256=([0-9a-f]{64})', page.read().decode())
        base = page.url
    if not links:
        sys.exit("No pip found at " + index + "; install python3-venv (Debian: apt-get install python3-venv)")
    link, _, expected = max(links, key=lambda found: [int(part) for part in found[1].split(".")])
    with urllib.request.urlopen(urllib.parse.urljoin(base, link)) as answer:
        wheel: bytes = answer.read()
    if hashlib.sha256(wheel).hexdigest() != expected:
        sys.exit("The pip fetched from " + index + " is not the one that the index announced")
    return wheel


def _index() -> str:
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    configuration = configparser.ConfigParser()
    configuration.read([os.path.expanduser(path) for path in PIP_CONFIGURATIONS])
    return configuration.get("global", "index-url", fallback="https://pypi.org/simple")
