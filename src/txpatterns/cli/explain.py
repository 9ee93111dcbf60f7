"""``txp explain``: what an error code means, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated

import typer

from txpatterns.cli.loading import JsonOption
from txpatterns.cli.output import DIFFERENT, examples, show, table
from txpatterns.errors import TxPatternsError

_IN_THE_ERROR = "It differs from case to case: the error itself ends with it."

CodeArgument = Annotated[str | None, typer.Argument(metavar="CODE", help="For example TXP-1103; all of them without.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("explain", epilog=examples("txp explain TXP-1103", "txp explain --json"))(explain)


def explain(code: CodeArgument = None, json: JsonOption = False) -> None:
    """Say what an error means and what mends it; exit code 3 for a code that no error has."""
    known = {error.code: error for error in _errors(TxPatternsError)}
    if code is None:
        rows = [{"code": key, "error": known[key].__name__, "meaning": _meaning(known[key])} for key in sorted(known)]
        show(rows, table(rows), as_data=json)
        return
    error = known.get(code.upper() if code.upper().startswith("TXP-") else f"TXP-{code}")
    if error is None:
        show(None, [f"no error has the code {code}"], as_data=json)
        raise typer.Exit(DIFFERENT)
    fix = _IN_THE_ERROR if error.fix == TxPatternsError.fix else error.fix
    base = error.__mro__[1].__name__
    data = {"code": error.code, "error": error.__name__, "kind": base, "meaning": _meaning(error), "fix": fix}
    lines = [f"{error.code} {error.__name__} (a kind of {base})", "", _meaning(error), "", f"Fix: {fix}"]
    show(data, lines, as_data=json)


def _errors(base: type[TxPatternsError]) -> Iterator[type[TxPatternsError]]:
    yield base
    for error in base.__subclasses__():
        yield from _errors(error)


def _meaning(error: type[TxPatternsError]) -> str:
    return inspect.cleandoc(error.__doc__ or "")
