"""What is in a cart, as pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST_OF_ONE = 99


@dataclass(frozen=True, slots=True)
class Line:
    """So many of one thing. The id is the line's own: a thing put back in later is another line."""

    id: str
    sku: str
    quantity: int


def without_bought(lines: Iterable[Line], bought: Mapping[str, int]) -> list[Line]:
    """Take out what was bought, by line id; what was added meanwhile stays."""
    left = []
    for line in lines:
        rest = line.quantity - bought.get(line.id, 0)
        if rest > 0:
            left.append(Line(line.id, line.sku, rest))
    return left
