"""The README's first file: the same as the tested one, run as pasted, killed where it hurts."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SNIPPET = ROOT / "docs" / "snippets" / "orders.py"
FIRST = SNIPPET.with_name("first.py")
TXP = [sys.executable, "-c", "from txpatterns.cli import main; main()"]

# The README's file with a process that dies by SIGKILL at one moment of the message's life.
KILLED = """
import asyncio, os, signal
import orders
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import Handled, Handling
from txpatterns.outbox.moments import Published, Publishing

class Killer(Hooks):
    @on({moment})
    def kill(self, moment):
        os.kill(os.getpid(), signal.SIGKILL)

orders.app.hooks.add(Killer())

async def main():
    async with orders.app.running():
        await orders.place_order(orders.Decimal("19.90"))
        print("placed", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

# The dead process owns its keys until its lease runs out.
SHORT_LEASES = {"TXP_RELAY_LEASE": "1s", "TXP_CONSUMER_LEASE_TTL": "1s"}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "orders.py").write_text(SNIPPET.read_text())
    return tmp_path


def drain(project):
    command = [*TXP, "run", "orders:app", "--drain"]
    environment = {**os.environ, **SHORT_LEASES}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def count(project, table):
    with closing(sqlite3.connect(project / "orders.db")) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_the_readme_shows_the_file_that_is_tested():
    """What a reader pastes is what runs here."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- file: orders\.py -->\n\n```python\n(.*?)```", readme, flags=re.DOTALL)
    assert shown == [FIRST.read_text(encoding="utf-8"), SNIPPET.read_text(encoding="utf-8")]


def test_the_first_file_is_short():
    """Twenty lines show the whole idea; models come in the second step."""
    assert len(FIRST.read_text(encoding="utf-8").splitlines()) <= 20


def test_the_readme_runs_as_pasted():
    """P1, P2: every command of the page, in a new folder, prints what the page says."""
    smoke = [sys.executable, ROOT / "tests" / "smoke" / "readme.py", ROOT / "README.md"]
    done = subprocess.run(smoke, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("moment", ["Publishing", "Handling", "Handled", "Published"])
def test_killed_at_any_moment_there_is_one_effect(project, child, moment):
    """P1, P2, H20, H51: SIGKILL between commit and publish, in the handler, before its acknowledgement, before the
    outbox knows; after the next start there is one packing slip, and nothing is left over."""
    (project / "killed.py").write_text(KILLED.format(moment=moment))
    killed = child(project / "killed.py", environment=SHORT_LEASES)
    assert killed.wait() == -9, killed.output
    assert count(project, "orders") == 1
    again = drain(project)
    assert (count(project, "packing_slips"), count(project, "txp_outbox")) == (1, 0)
    assert ("packing" in again) == (moment in ("Publishing", "Handling"))
    assert "packing" not in drain(project)
    assert count(project, "packing_slips") == 1
