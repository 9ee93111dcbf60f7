"""What commands print: a few lines for people, JSON for programs, and one line for an error."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import typer
from sqlalchemy.exc import DBAPIError

from txpatterns.errors import ConfigurationError, TxPatternsError
from txpatterns.settings import duration_text
from txpatterns.text import error_line, one_line

OK, FAILED, USAGE, DIFFERENT, WAITING = 0, 1, 2, 3, 4
"""Exit codes: done; it failed and says why; called wrongly; what was asked for is not so, or is not there; a drain has
ended, and something waits or was given up."""


_WHY = 80
"""Characters of an error in a table."""
_PLACE = re.compile(r" \(at ([^()\n]+:\d+ in [^\s()]+)\)")
"""What ``causes`` appends to an error."""


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


def of_driver(error: Exception) -> BaseException:
    """Give the driver's own error, where SQLAlchemy has wrapped one."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def report(error: Exception) -> None:
    """Print an error of ours, or of the database, in one line on standard error; the user's frames before it."""
    if not isinstance(error, TxPatternsError):
        cause = of_driver(error)
        said = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        error = TxPatternsError(said, fix="It comes from the database or the system: look it up there by its name.")
    frames: list[str] = getattr(error, "__notes__", [])
    if _asked_for_json():
        _echo_as_json(error.code, error.message, error.remedy, frames)
    else:
        for frame in frames:
            typer.echo(frame, err=True)
        typer.echo(" ".join(f"{error.code} {error.message} Fix: {error.remedy}".split()), err=True)


def report_usage(error: Any) -> None:
    """Print what was wrong with a call: JSON for who asked for it, Typer's own lines for others."""
    if _asked_for_json():
        command = error.ctx.command_path if error.ctx is not None else "txp"
        _echo_as_json(ConfigurationError.code, error.format_message(), f"See: {command} --help")
    else:
        error.show()


def _asked_for_json() -> bool:
    return "--json" in sys.argv and "publish" not in sys.argv[1:2]  # of `publish` it is the event and not a wish


def _echo_as_json(code: str, message: str, fix: str, frames: Sequence[str] = ()) -> None:
    where = {"where": "\n".join(frames)} if frames else {}
    typer.echo(as_json({"error": {"code": code, "message": message, "fix": fix, **where}}), err=True)


def examples(*lines: str) -> str:
    """Make the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def why(error: str | None) -> str | None:
    """Say a stored error in one line: the beginning of its text, and always the line of the user's code."""
    if error is None:
        return None
    found = _PLACE.search(error)
    told = error_line(error if found is None else error.replace(found[0], "", 1), _WHY)
    return told if found is None else f"{told} (at {one_line(found[1].removeprefix(f'{Path.cwd()}{os.sep}'))})"


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
