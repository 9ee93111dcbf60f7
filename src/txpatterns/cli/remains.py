"""What is left where a command has looked or worked: said in a few lines, with the command that shows more."""

from __future__ import annotations

from collections.abc import Sequence

from txpatterns.hooks import Depths


def dead_letter_lines(number: int) -> Sequence[str]:
    """Say that there are dead letters, if there are any."""
    return [f"{_count(number, 'dead letter')} (see: txp dlq list)"] if number else []


def beside_the_outbox(depths: Depths) -> Sequence[str]:
    """Say what waits elsewhere than in the outbox."""
    lines = []
    if depths.waiting:
        lines.append(f"{_count(depths.waiting, 'message')} at handlers, to be tried again (see: txp inbox list)")
    return [*lines, *dead_letter_lines(depths.dead)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
