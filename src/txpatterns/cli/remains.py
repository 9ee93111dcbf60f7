"""What is left where a command has looked or worked: said in a few lines, with the command that shows more."""

from __future__ import annotations

from collections.abc import Sequence

from txpatterns.runtime.moments import Depths


def dead_letter_lines(number: int, where: str) -> Sequence[str]:
    """Say that there are dead letters, if there are any; ``where`` is the option that leads to the database."""
    return [f"{count(number, 'dead letter')} (see: txp dlq list{where})"] if number else []


def beside_the_outbox(depths: Depths, where: str) -> Sequence[str]:
    """Say what waits elsewhere than in the outbox."""
    lines = []
    if depths.waiting:
        lines.append(f"{count(depths.waiting, 'message')} at handlers, to be tried again (see: txp inbox list{where})")
    return [*lines, *dead_letter_lines(depths.dead, where)]


def count(number: int, what: str) -> str:
    """Give a number and what is counted, in the singular or the plural."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
