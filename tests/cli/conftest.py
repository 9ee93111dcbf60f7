import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from txpatterns.cli import main

SNIPPET = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "orders.py"


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code: str | int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Txp = Callable[..., Ran]


def checked(ran: Ran, code: int | None) -> Ran:
    assert code is None or ran.code == code, ran.out + ran.err
    assert "Traceback" not in ran.err
    return ran


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the README's file in it."""
    (tmp_path / "orders.py").write_text(SNIPPET.read_text())
    return tmp_path


@pytest.fixture
def txp(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Txp:
    """`txp("outbox", "list", …)` in that folder; checks the exit code, and that no traceback was printed."""

    def run(*arguments: str, code: int | None = 0, **environment: str) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("TXP_")]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            for name in ("orders", "plain", "ledger", "store"):
                sys.modules.pop(name, None)  # as in a process of its own
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "argv", ["txp", *arguments])
            patch.chdir(project)
            with pytest.raises(SystemExit) as ended:
                main()
        seen = capsys.readouterr()
        return checked(Ran(ended.value.code or 0, seen.out, seen.err), code)

    return run


@pytest.fixture
def txp_process(project: Path) -> Txp:
    """The same as a process of its own."""

    def run(*arguments: str, code: int | None = 0, **environment: str) -> Ran:
        command = [sys.executable, "-c", "from txpatterns.cli import main; main()", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TXP_")}
        done = subprocess.run(
            command, cwd=project, env={**clean, **environment}, capture_output=True, text=True, check=False, timeout=60
        )
        return checked(Ran(done.returncode, done.stdout, done.stderr), code)

    return run


@pytest.fixture
def place(project: Path) -> Callable[[], str]:
    """Places one order, as the README does; returns its id."""

    def run() -> str:
        done = subprocess.run([sys.executable, "orders.py"], cwd=project, capture_output=True, text=True, check=True)
        return done.stdout.split()[1]

    return run
