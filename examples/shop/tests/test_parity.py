"""The list of what the shop is measured by says no more than tests and commands show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shop import parity
from shop.cli import app as shop_command
from shop.parity import ParityError, Row, State, read_rows
from txpatterns.cli.main import app as library_command

ROOT = Path(__file__).parents[3]
COMMANDS = {"shop": shop_command, "txp": library_command}


def test_each_row_is_there_once():
    """88 of the one system, 136 of the other, in their order."""
    wanted = [f"G-{number:03}" for number in range(1, 89)] + [f"L-{number:03}" for number in range(1, 137)]
    assert [row.id for row in read_rows()] == wanted


def test_each_proof_exists():
    """A test is collected under its id, a file is there, and a command is known."""
    proofs = [(row.id, proof) for row in read_rows() for proof in row.proofs]
    tests = sorted({proof for _, proof in proofs if "::" in proof})
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    for row, proof in proofs:
        if proof.startswith("$ "):
            assert is_command(proof.split()[1:]), f"{row}: there is no command {proof}"
        else:
            assert (ROOT / proof.partition("::")[0]).exists(), f"{row}: there is no {proof}"


def is_command(words):
    found = typer.main.get_command(COMMANDS[words[0]])
    for word in words[1:]:
        found = getattr(found, "commands", {}).get(word)
    return found is not None


def test_a_command_that_is_none_is_found():
    assert is_command(["shop", "parity"])
    assert not is_command(["shop", "fly"])
    assert not is_command(["shop", "parity", "fly"])


@pytest.mark.parametrize(
    "line",
    [
        "G-001,done,a shop,,",
        "G-001,done,a shop,README.md,all of it",
        "G-001,partly,a shop,README.md,",
        "G-001,partly,a shop,,all of it",
        "G-001,open,a shop,README.md,",
        "G-001,declined,a shop,,",
        "G-001,perhaps,a shop,README.md,",
        "G-001,open,,,",
        "G-001,open,a shop,,\nG-001,open,a shop,,",
    ],
)
def test_a_row_that_says_more_than_it_shows_is_refused(line, tmp_path, monkeypatch):
    (tmp_path / "parity.csv").write_text(f"id,state,what,proof,why\n{line}\n")
    monkeypatch.setattr(parity.resources, "files", lambda package: tmp_path)
    with pytest.raises(ParityError, match="G-001"):
        read_rows()


def test_the_command_lists_them():
    ran = CliRunner().invoke(shop_command, ["parity", "--state", "declined"])
    assert ran.exit_code == 0
    first, *_, last = ran.output.splitlines()
    assert first.startswith("L-039  declined")
    assert sum(int(part.split()[0]) for part in last.split(", ")) == 224
    ran = CliRunner().invoke(shop_command, ["parity", "--json"])
    assert [
        Row(**{**row, "state": State(row["state"]), "proofs": tuple(row["proofs"])}) for row in json.loads(ran.output)
    ] == read_rows()
