"""What becomes of a message at one of its handlers."""

from __future__ import annotations

from enum import Enum


class Standing(Enum):
    """Where a message stands: what a look found, or what was done about it."""

    HANDLED = "handled"
    """Its handler has run, and the effect is committed."""
    DUPLICATE = "duplicate"
    """Its effect was committed already."""
    FIRST = "first"
    """It is stored as the first of its lane, with a due time."""
    BEHIND = "behind"
    """It is stored behind others of its lane."""
    STORED = "stored"
    """It was stored, or was a dead letter, already; or another attempt has it, or has ended the matter."""
    REUSED = "reused"
    """Another message has, or had, this id; this one is a dead letter now."""
    DEAD = "dead"
    """It is a dead letter now, because its handler cannot deal with it."""
    AGAIN = "again"
    """Its lane is changing hands at this moment: look again."""
