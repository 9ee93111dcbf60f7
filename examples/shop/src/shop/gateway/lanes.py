"""The engineer's picture of an order: one lane a service, one dot an event, one curve from cause to effect. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shop.gateway.story import STEP, STUMBLED, Entry

LANES = ("orders", "inventory", "payment", "bank", "cart")
LED_LANES = ("orders", "checkout", "inventory", "payment", "bank", "cart")
"""Those of an order whose checkout a saga leads."""
REDUCED_LANES = ("orders", "checkout", "inventory", "pricing", "wallet", "payment", "bank", "cart")
"""Those of one with a coupon or credit."""
LANE_WIDTH = 30
ROW_HEIGHT = 62
HEAD = 78
MARGIN = 26

EMITTERS = {
    "order": "orders",
    "stock": "inventory",
    "payment": "payment",
    "webhook": "payment",
    "cart": "cart",
    "refund": "orders",
    "reservation": "inventory",
    "coupon": "pricing",
    "credit": "wallet",
}
FROM_SAGA = {
    "reservation.made",
    "reservation.refused",
    "reservation.released",
    "coupon.held",
    "coupon.used",
    "coupon.released",
    "credit.held",
    "credit.spent",
    "credit.released",
    "payment.session_opened",
    "checkout.completed",
    "checkout.failed",
}
"""What is told because a saga has asked for it, and not because of another event."""
UNDOING = {
    "order.cancel_requested",
    "stock.released",
    "stock.rejected",
    "order.canceled",
    "refund.requested",
    "payment.refunded",
    "payment.failed",
    "checkout.cancel_requested",
    "checkout.failed",
    "reservation.refused",
    "reservation.released",
    "coupon.released",
    "credit.released",
}
FROM_BANK = {"payment.captured", "payment.failed", "payment.refunded", "webhook.repeated"}


@dataclass(frozen=True, slots=True)
class Dot:
    x: int
    y: int
    lane: str
    kind: str  # "", "undoing" or "failed"


@dataclass(frozen=True, slots=True)
class Curve:
    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """One event with its place, and how long after its cause it happened, in milliseconds."""

    entry: Entry
    dot: Dot
    after_ms: int | None
    cause: str | None


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: int
    lanes: tuple[tuple[str, int], ...]
    calls: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]


def emitter(entry: Entry, led: bool) -> str:
    """Say which service told this event.

    Args:
        entry: The event.
        led: Whether a saga leads the order's checkout.
    """
    if entry.type == STUMBLED:
        return str(entry.payload["service"])
    if led and entry.type in ("checkout.completed", "checkout.failed", "refund.requested"):
        return "payment" if entry.type == "refund.requested" else "checkout"
    return EMITTERS.get(entry.type.partition(".")[0], "orders")


def draw(entries: Sequence[Entry]) -> Picture:
    """Lay out an order's events, oldest on top, and between them the attempts at handling one that failed."""
    asked = next((entry for entry in entries if entry.type == "checkout.requested"), None)
    led = asked is not None
    names = LANES if asked is None else REDUCED_LANES if asked.payload.get("reduction") else LED_LANES
    sheet = Sheet(names, led)
    for entry in entries:
        if entry.type != STEP and emitter(entry, led) in sheet.names:
            sheet.add(entry)
    return sheet.picture()


class Sheet:
    """The picture while it is drawn.

    Args:
        names: The lanes, from left to right.
        led: Whether a saga leads the checkout: then a line in its lane joins what it asks for.
    """

    def __init__(self, names: tuple[str, ...], led: bool) -> None:
        self.names = names
        self.led = led
        self._rows: list[Row] = []
        self._places: dict[str, int] = {}
        self._curves: list[Curve] = []
        self._calls: list[tuple[int, int]] = []
        self._asked: list[int] = []

    def add(self, entry: Entry) -> None:
        """Draw the next event."""
        lane = emitter(entry, self.led)
        dot = Dot(self._x(lane), _y(len(self._rows)), lane, _kind(entry))
        cause_index = self._places.get(_cause(entry))
        cause = None if cause_index is None else self._rows[cause_index]
        after = None
        if cause is not None:
            after = round((entry.occurred_at - cause.entry.occurred_at).total_seconds() * 1000)
            self._curves.append(Curve(_curve(cause.dot, dot), dot.kind))
        elif entry.type in FROM_BANK:
            self._curves.append(Curve(f"M{self._x('bank')} {dot.y}H{dot.x}", dot.kind))
        elif self._is_asked(entry):
            self._curves.append(Curve(f"M{self._x('checkout')} {dot.y}H{dot.x}", dot.kind))
            self._asked.append(dot.y)
            if len(self._asked) == 1:
                self._curves.append(Curve(_curve(self._rows[0].dot, replace(dot, x=self._x("checkout"))), ""))
        if entry.type in FROM_BANK | {"payment.session_opened"}:
            self._calls.append((self._x("bank"), dot.y))
        if entry.type == "payment.session_opened" or (entry.type in FROM_BANK and cause is not None):
            self._curves.append(Curve(f"M{dot.x} {dot.y}H{self._x('bank')}", ""))
        self._places[entry.message_id] = len(self._rows)
        outside = "the saga" if self._is_asked(entry) else _outside(entry)
        self._rows.append(Row(entry, dot, after, cause.entry.type if cause else outside))

    def picture(self) -> Picture:
        """Give what was drawn."""
        curves = self._curves
        if len(self._asked) > 1:
            curves = [Curve(f"M{self._x('checkout')} {self._asked[0]}V{self._asked[-1]}", ""), *curves]
        width = MARGIN * 2 + LANE_WIDTH * (len(self.names) - 1)
        lanes = tuple((lane, self._x(lane)) for lane in self.names)
        height = HEAD + ROW_HEIGHT * len(self._rows)
        return Picture(width, height, lanes, tuple(self._calls), tuple(self._rows), tuple(curves))

    def _is_asked(self, entry: Entry) -> bool:
        # The stock is sold by the order's confirmation or by the saga's, whichever is first.
        confirmed = entry.type == "stock.sold" and _cause(entry) not in self._places
        return self.led and (entry.type in FROM_SAGA or confirmed)

    def _x(self, lane: str) -> int:
        return MARGIN + LANE_WIDTH * self.names.index(lane)


def _kind(entry: Entry) -> str:
    if entry.type == STUMBLED:
        return "failed"
    return "undoing" if entry.type in UNDOING else ""


def _cause(entry: Entry) -> str:
    """Give the message that led to this: for a failed attempt the one that was being handled."""
    return str(entry.payload["message_id"]) if entry.type == STUMBLED else entry.headers.get("causation-id", "")


def _outside(entry: Entry) -> str | None:
    """Name a cause that is no event of the order: the bank's webhook, or the timer."""
    if entry.type in FROM_BANK:
        return "a webhook"
    return "a timer" if entry.type == "order.cancel_requested" and "causation-id" in entry.headers else None


def _y(index: int) -> int:
    return HEAD + ROW_HEIGHT * index + ROW_HEIGHT // 2


def _curve(start: Dot, end: Dot) -> str:
    if start.x == end.x:
        bow = start.x - LANE_WIDTH // 2 if end.y - start.y > ROW_HEIGHT else start.x
        return f"M{start.x} {start.y}C{bow} {start.y + 24} {bow} {end.y - 24} {end.x} {end.y}"
    return f"M{start.x} {start.y}C{start.x} {end.y} {start.x} {end.y} {end.x} {end.y}"
