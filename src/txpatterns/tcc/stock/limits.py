"""What a stock takes, and for how long it remembers: whatever else is refused before anything changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from txpatterns.checks import check_at_least
from txpatterns.errors import ConfigurationError, StockInputInvalid
from txpatterns.tcc.stock.contract import Lines
from txpatterns.text import one_line

MOST = 2**31 - 1
"""The largest quantity. Sums of some thousands of them are exact in every number that a stock is kept in."""
LONGEST_NAME = 200
MOST_LINES = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """How long reservations may be, how far clocks may be apart, and how long ended ones are remembered."""

    longest: timedelta = timedelta(days=7)
    """How far ahead a reservation's time may be."""
    skew: timedelta = timedelta(seconds=10)
    """How much later than its time a reservation may still arrive, because two clocks never agree."""
    keep: timedelta = timedelta(days=30)
    """How long an ended reservation is remembered beyond its time, so that a repeated call gets its answer."""

    def __post_init__(self) -> None:
        check_at_least(timedelta(seconds=1), self, "longest")
        check_at_least(timedelta(0), self, "skew", "keep")
        if self.keep < self.longest + self.skew:
            raise ConfigurationError(
                f"keep is {self.keep}: a reservation that was canceled before it arrived would be forgotten too early.",
                fix=f"Let keep be at least longest and skew together: {self.longest + self.skew}.",
            )


def checked_lines(lines: Lines) -> dict[str, int]:
    """Add up the quantities of each item, in the order of the items.

    Raises:
        StockInputInvalid: there are none or too many, or one of them cannot be right.
    """
    given: list[object] = list(lines.items()) if isinstance(lines, Mapping) else list(lines)
    if not given or len(given) > MOST_LINES:
        raise StockInputInvalid(f"A reservation has 1 to {MOST_LINES} lines, not {len(given)}.")
    wanted: dict[str, int] = {}
    for line in given:
        if not isinstance(line, tuple) or len(line) != 2:
            raise StockInputInvalid("A line is an item and a quantity.")
        item = checked_name("item", line[0])
        wanted[item] = wanted.get(item, 0) + checked_quantity(item, line[1], least=1)
        checked_quantity(item, wanted[item], least=1)
    return dict(sorted(wanted.items()))


def checked_quantity(item: object, quantity: object, *, least: int = 0) -> int:
    """Refuse what is no item, and no whole number from ``least`` up to the largest."""
    checked_name("item", item)
    if type(quantity) is not int or not least <= quantity <= MOST:
        raise StockInputInvalid(
            f"The quantity of {item} is {one_line(repr(quantity))}: a whole number from {least} to {MOST} is needed."
        )
    return quantity


def checked_quantities(quantities: Mapping[str, int]) -> dict[str, int]:
    """Do the same for several, in the order of the items."""
    return dict(sorted((item, checked_quantity(item, quantity)) for item, quantity in quantities.items()))


def checked_name(kind: str, name: object) -> str:
    """Refuse an id or an item that is no text, empty, too long, or has characters that do not show."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise StockInputInvalid(
            f"{one_line(repr(name))} is no {kind}: it must be a text of 1 to {LONGEST_NAME} characters that show."
        )
    return name


def checked_names(kind: str, names: Iterable[str]) -> list[str]:
    """Do the same for several, each once and in order."""
    if isinstance(names, str):
        raise StockInputInvalid(f"{one_line(names)!r} is one {kind}, where several are asked for.")
    return sorted({checked_name(kind, name) for name in names})


def checked_time(expires_at: datetime) -> datetime:
    """Refuse a time without a zone; gives it in UTC, to the millisecond."""
    given: object = expires_at
    if not isinstance(given, datetime) or given.tzinfo is None:
        raise StockInputInvalid(f"expires_at is {one_line(repr(given))}: a datetime with a time zone is needed.")
    utc = given.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class Wish:
    """A reservation that is asked for, and can be right."""

    id: str
    lines: Mapping[str, int]
    until: datetime


def wished(reservation_id: str, lines: Lines, expires_at: datetime) -> Wish:
    """Give what is asked for, added up.

    Raises:
        StockInputInvalid: it cannot be right.
    """
    return Wish(checked_name("id", reservation_id), checked_lines(lines), checked_time(expires_at))


def written(quantities: Mapping[str, int]) -> str:
    """Write items and quantities as one text, always the same for the same."""
    return json.dumps(sorted(quantities.items()), ensure_ascii=True, separators=(",", ":"))


def read(text: str) -> dict[str, int]:
    """Read what ``written`` gave."""
    return dict(json.loads(text))
