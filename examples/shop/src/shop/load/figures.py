"""What was measured, as figures, and what is demanded of them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_DEMAND = re.compile(r"(?P<what>p[\d.]+|mean|max|errors)\s*(?P<how><=|<)\s*(?P<limit>\d+(\.\d+)?)\s*(?P<unit>ms|s|%)")
INVARIANTS = "invariants"
_MOST = 100.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the value below which so many of a hundred are, of values in order: one of them, not between two."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * share // 100)  # rounded up: the 99th of 10 values is the last
    return ordered[max(0, int(rank) - 1)]


@dataclass(slots=True)
class Figures:
    """All that was measured of one kind of journey, in seconds.

    ``waited`` is from when a journey was to begin, so that a target that stands still is seen by all who would have
    come meanwhile. ``served`` is from when it did begin: what a measurement that waits for its target would tell.
    """

    waited: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """How many journeys have ended, well or not."""
        return len(self.waited) + self.errors.total()

    @property
    def error_percent(self) -> float:
        """How many of a hundred failed."""
        return 100 * self.errors.total() / self.sent if self.sent else 0.0

    def add(self, due: float, began: float, ended: float, error: str | None) -> None:
        """Take in one journey. What failed is counted, and not timed: a quick refusal is no quick answer."""
        if error is None:
            self.waited.append(ended - due)
            self.served.append(ended - began)
        else:
            self.errors[error] += 1

    def merged(self, other: Figures) -> Figures:
        """Give both together."""
        return Figures(self.waited + other.waited, self.served + other.served, self.errors + other.errors)

    def table(self) -> dict[str, float]:
        """Give the times in milliseconds."""
        return _table(self.waited)

    def report(self) -> dict[str, object]:
        """Give all of it as JSON values."""
        return {
            "journeys": self.sent,
            "errors": dict(self.errors),
            "error_percent": round(self.error_percent, 3),
            "ms_from_intended_start": _table(self.waited),
            "ms_from_actual_start": _table(self.served),
        }


def _table(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    table = {f"p{share:g}": _ms(percentile(ordered, share)) for share in PERCENTILES}
    table["mean"] = _ms(sum(ordered) / len(ordered)) if ordered else 0.0
    table["max"] = _ms(ordered[-1]) if ordered else 0.0
    return table


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


@dataclass(frozen=True, slots=True)
class Demand:
    """What somebody asserts: ``p99<300ms``, ``errors<0.1%``, or that the invariants hold."""

    text: str
    what: str
    limit: float
    strict: bool

    def holds(self, figures: Figures, broken: Sequence[str]) -> bool:
        """Say whether it is so. Times of which there are none hold nothing.

        Args:
            figures: What was measured.
            broken: Invariants that do not hold.
        """
        if self.what == INVARIANTS:
            return not broken
        if self.what == "errors":
            return figures.sent > 0 and self._fits(figures.error_percent)
        if not figures.waited:
            return False
        ordered = sorted(figures.waited)
        match self.what:
            case "max":
                found = ordered[-1]
            case "mean":
                found = sum(ordered) / len(ordered)
            case _:
                found = percentile(ordered, float(self.what[1:]))
        return self._fits(found)

    def _fits(self, found: float) -> bool:
        return found < self.limit if self.strict else found <= self.limit


def demand(text: str) -> Demand:
    """Read what is asserted.

    Raises:
        ValueError: it is no assertion, and how one looks.
    """
    if text.strip() == INVARIANTS:
        return Demand(text, INVARIANTS, 0.0, strict=False)
    found = _DEMAND.fullmatch(text.strip())
    if found is None or (found["what"] == "errors") != (found["unit"] == "%") or not _is_share(found["what"]):
        raise ValueError(f"{text!r} is no assertion: write 'p99<300ms', 'errors<0.1%' or 'invariants'.")
    limit = float(found["limit"]) / (1000 if found["unit"] == "ms" else 1)
    return Demand(text, found["what"], limit, found["how"] == "<")


def _is_share(what: str) -> bool:
    if not what.startswith("p"):
        return True
    share = re.fullmatch(r"\d+(\.\d+)?", what[1:])
    return share is not None and 0 < float(what[1:]) <= _MOST
