import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from txpatterns.cli import main

SNIPPET = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "orders.py"


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


def checked(ran, code):
    assert code is None or ran.code == code, ran.out + ran.err
    assert "Traceback" not in ran.err
    return ran


@pytest.fixture
def project(tmp_path):
    """A folder with the README's file in it."""
    (tmp_path / "orders.py").write_text(SNIPPET.read_text())
    return tmp_path


@pytest.fixture
def txp(project, monkeypatch, capsys):
    """`txp("outbox", "list", …)` in that folder; checks the exit code, and that no traceback was printed."""

    def run(*arguments, code=0, **environment):
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
def txp_process(project):
    """The same as a process of its own."""

    def run(*arguments, code=0, **environment):
        command = [sys.executable, "-c", "from txpatterns.cli import main; main()", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TXP_")}
        done = subprocess.run(
            command, cwd=project, env={**clean, **environment}, capture_output=True, text=True, check=False, timeout=60
        )
        return checked(Ran(done.returncode, done.stdout, done.stderr), code)

    return run


@pytest.fixture
def place(project):
    """Places one order, as the README does; returns its id."""

    def run():
        done = subprocess.run([sys.executable, "orders.py"], cwd=project, capture_output=True, text=True, check=True)
        return done.stdout.split()[1]

    return run
