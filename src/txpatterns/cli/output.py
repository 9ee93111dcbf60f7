"""What commands print: a few lines for people, JSON for programs, and one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Any

import typer
from sqlalchemy.exc import DBAPIError

from txpatterns.errors import TxPatternsError
from txpatterns.settings import duration_text

OK, FAILED, USAGE, DIFFERENT = 0, 1, 2, 3
"""Exit codes: done; it failed and says why; called wrongly; what was asked for is not so, or is not there."""


def as_json(value: object) -> str:
    """Write a value as one line of JSON; times in ISO 8601, durations as the environment takes them."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def show(value: object, lines: Sequence[str], *, as_data: bool) -> None:
    """Print ``value`` as JSON, or the lines that say the same to a person."""
    typer.echo(as_json(value) if as_data else "\n".join(lines))


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Lay rows out in columns as wide as what they hold."""
    if not rows:
        return []
    names = list(rows[0])
    cells = [names] + [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def report(error: Exception) -> None:
    """Print an error of ours, or of the database, in one line on standard error."""
    if isinstance(error, TxPatternsError):
        data: dict[str, str | None] = {"code": error.code, "message": error.message, "fix": error.remedy}
        text = f"{error.code} {error.message} Fix: {error.remedy}"
    else:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        message = " ".join(str(cause).split()) or type(cause).__name__
        data = {"code": None, "message": message, "fix": None}
        text = f"{type(cause).__name__}: {message}"
    # For `publish`, --json is the event and not a wish.
    as_data = "--json" in sys.argv and "publish" not in sys.argv[1:2]
    typer.echo(as_json({"error": data}) if as_data else " ".join(text.split()), err=True)


def examples(*lines: str) -> str:
    """Make the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    return str(value)


def _plain(value: Any) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_text(value)
    return str(value)
