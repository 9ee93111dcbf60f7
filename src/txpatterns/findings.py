"""What a look at a server has found: said in words, each with what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Nothing can be published or read, or a promise does not hold: a deploy has to stop."""
    WARNING = "warning"
    """It works today, and messages may be lost or late when something else fails."""
    INFO = "info"
    """Good to know: nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about a server or an App."""

    severity: Severity
    subject: str
    """What it is about, for example "topic orders"."""
    words: str
    """What was found, as a sentence."""
    fix: str = ""
    """What mends it, as a sentence; empty: nothing has to be done."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.words} {self.fix}".rstrip()
