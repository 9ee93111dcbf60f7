"""What others wrote, made fit for a log line or a label: short, on one line, and without hidden characters."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that move the cursor, turn the reading direction, or show nothing at all."""


def one_line(text: str, limit: int = 200) -> str:
    """Escape line ends, terminal sequences and direction marks, and cut what is longer than ``limit`` characters."""
    cut = text[:limit]
    if not cut.isascii() or not cut.isprintable():
        cut = "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN else c for c in cut)
    return cut if len(text) <= limit else cut + "…"


def error_line(error: BaseException | str | None, limit: int = 200) -> str:
    """Say in one line what went wrong.

    Only the first line of the error's text is used: drivers and pydantic put parameters, rows and inputs,
    which may be personal data, into the lines that follow.
    """
    if error is None:
        return "no reason given"
    text = error if isinstance(error, str) else str(error)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if isinstance(error, str):
        return one_line(first, limit)
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__, limit)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
