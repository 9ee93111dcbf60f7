"""The engineer's picture of an order: one lane a service, one dot an event, one curve from cause to effect. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shop.gateway.story import STUMBLED, Entry

LANES = ("orders", "inventory", "payment", "bank", "cart")
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
}
UNDOING = {
    "order.cancel_requested",
    "stock.released",
    "stock.rejected",
    "order.canceled",
    "refund.requested",
    "payment.refunded",
    "payment.failed",
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


def emitter(entry: Entry) -> str:
    """Say which service told this event."""
    if entry.type == STUMBLED:
        return str(entry.payload["service"])
    return EMITTERS.get(entry.type.partition(".")[0], "orders")


def draw(entries: Sequence[Entry]) -> Picture:
    """Lay out an order's events, oldest on top, and between them the attempts at handling one that failed."""
    entries = [entry for entry in entries if emitter(entry) in LANES]
    places = {entry.message_id: index for index, entry in enumerate(entries)}
    rows: list[Row] = []
    curves: list[Curve] = []
    calls: list[tuple[int, int]] = []
    for index, entry in enumerate(entries):
        dot = Dot(_x(emitter(entry)), _y(index), emitter(entry), _kind(entry))
        cause_index = places.get(_cause(entry))
        cause = rows[cause_index] if cause_index is not None and cause_index < index else None
        after = None
        if cause is not None:
            after = round((entry.occurred_at - cause.entry.occurred_at).total_seconds() * 1000)
            curves.append(Curve(_curve(cause.dot, dot), dot.kind))
        elif entry.type in FROM_BANK:
            curves.append(Curve(f"M{_x('bank')} {dot.y}H{dot.x}", dot.kind))
        if entry.type in FROM_BANK | {"payment.session_opened"}:
            calls.append((_x("bank"), dot.y))
        if entry.type == "payment.session_opened" or (entry.type in FROM_BANK and cause is not None):
            curves.append(Curve(f"M{dot.x} {dot.y}H{_x('bank')}", ""))
        rows.append(Row(entry, dot, after, cause.entry.type if cause else _outside(entry)))
    width = MARGIN * 2 + LANE_WIDTH * (len(LANES) - 1)
    lanes = tuple((lane, _x(lane)) for lane in LANES)
    return Picture(width, HEAD + ROW_HEIGHT * len(entries), lanes, tuple(calls), tuple(rows), tuple(curves))


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


def _x(lane: str) -> int:
    return MARGIN + LANE_WIDTH * LANES.index(lane)


def _y(index: int) -> int:
    return HEAD + ROW_HEIGHT * index + ROW_HEIGHT // 2


def _curve(start: Dot, end: Dot) -> str:
    if start.x == end.x:
        bow = start.x - LANE_WIDTH // 2 if end.y - start.y > ROW_HEIGHT else start.x
        return f"M{start.x} {start.y}C{bow} {start.y + 24} {bow} {end.y - 24} {end.x} {end.y}"
    return f"M{start.x} {start.y}C{start.x} {end.y} {start.x} {end.y} {end.x} {end.y}"
