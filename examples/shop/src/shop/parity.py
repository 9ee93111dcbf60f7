"""What the two systems had that this shop is measured by: each requirement, how far it is, and what proves it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

BETWEEN = " ; "
"""What stands between two proofs."""


class State(StrEnum):
    """How far a requirement is."""

    DONE = "done"
    PARTLY = "partly"
    OPEN = "open"
    DECLINED = "declined"


class ParityError(ValueError):
    """A row that says more than it shows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement. ``proofs`` are ids of tests, files, or commands behind a ``$``; ``why`` is what is missing."""

    id: str
    state: State
    what: str
    proofs: tuple[str, ...]
    why: str


def read_rows() -> list[Row]:
    """Read all requirements.

    Raises:
        ParityError: a row is done without a proof, or is not done and does not say what is missing, or is there twice.
    """
    text = resources.files("shop").joinpath("parity.csv").read_text(encoding="utf-8")
    rows = [_row(each) for each in csv.DictReader(text.splitlines())]
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise ParityError(f"there twice: {', '.join(twice)}")
    return rows


def lines_of(rows: Sequence[Row], counted: Iterable[Row]) -> list[str]:
    """Lay rows out for a person, and say at the end how many there are of each state among those ``counted``."""
    lines = []
    for row in rows:
        lines.append(f"{row.id}  {row.state.ljust(8)}  {row.what}" + (f" ({row.why})" if row.why else ""))
        lines += [f"                 {proof}" for proof in row.proofs]
    count = Counter(row.state for row in counted)
    return [*lines, ", ".join(f"{count[state]} {state}" for state in State)]


def _row(given: dict[str, str]) -> Row:
    proofs = tuple(proof for proof in given["proof"].split(BETWEEN) if proof)
    try:
        row = Row(given["id"], State(given["state"]), given["what"], proofs, given["why"])
    except ValueError as error:
        raise ParityError(f"{given['id']}: {error}") from error
    wants_proof = row.state in (State.DONE, State.PARTLY)
    wants_why = row.state in (State.PARTLY, State.DECLINED)
    if not row.what or wants_proof is not bool(proofs) or wants_why is not bool(row.why):
        raise ParityError(f"{row.id} is {row.state}: with {len(proofs)} proofs, and missing: {row.why or 'nothing'}")
    return row
