"""The picture of a checkout's saga: its steps in order, and below each what undoes it. Pure: events in, picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shop.gateway.story import STEP, Entry
from shop.money import Money


@dataclass(frozen=True, slots=True)
class Kind:
    """One step as everybody knows it: its name in the saga, what it does, and what undoes it, if anything does."""

    name: str
    does: str
    undoes: str | None
    is_call: bool
    """Whether a failed attempt leaves in doubt what it has done; of other steps it is rolled back."""
    done_by: tuple[str, ...]
    """Events that are told only when it is done, whether or not a note of that has come."""
    undone_by: tuple[str, ...] = ()


OPEN = Kind(
    "open_session",
    "Open a session",
    "Session failed",
    False,
    ("reservation.made", "reservation.refused", "coupon.held", "credit.held", "checkout.failed"),
    ("checkout.failed",),
)
RESERVE = Kind(
    "reserve",
    "Set stock aside",
    "Stock put back",
    True,
    ("reservation.made",),
    ("reservation.released", "checkout.failed"),
)
CHARGE = Kind("charge", "Ask for the money", "Charge undone", True, ("payment.session_opened",), ("checkout.failed",))
WAIT = Kind("wait", "Wait for the bank", None, False, ("checkout.completed",))
COMPLETE = Kind("complete_session", "Complete", None, False, ("checkout.completed",))
KINDS = (OPEN, RESERVE, CHARGE, WAIT, COMPLETE)
HOLD_STOCK = replace(RESERVE, name="reserve stock")
HOLD_COUPON = Kind(
    "reserve coupon",
    "Set the coupon aside",
    "Coupon given back",
    True,
    ("coupon.held",),
    ("coupon.released", "checkout.failed"),
)
HOLD_CREDIT = Kind(
    "reserve credit",
    "Set credit aside",
    "Credit given back",
    True,
    ("credit.held",),
    ("credit.released", "checkout.failed"),
)
CONFIRM = Kind("confirm", "Use what was set aside", None, False, ())
REFUSED = {
    RESERVE.name: "out_of_stock",
    HOLD_STOCK.name: "out_of_stock",
    HOLD_COUPON.name: "coupon",
    HOLD_CREDIT.name: "credit",
}
"""Why a checkout fails whose step says no."""
ENDS = {
    "payment_failed": "the bank declined",
    "payment_window": "no answer in time",
    "customer": "you called it off",
    "out_of_stock": "not enough on the shelf",
    "coupon": "the coupon was used up by then",
    "credit": "the credit was spent by then",
}
ENDED = {"checkout.completed", "checkout.failed"}
NUMBERS = ("first", "second", "third", "fourth", "fifth")
WORDS = {
    "ahead": "still ahead",
    "running": "under way",
    "doubt": "in doubt",
    "done": "done",
    "refused": "failed",
    "skipped": "not reached",
}


@dataclass(frozen=True, slots=True)
class Undoing:
    """What undoes a step: ``state`` is due, running, failed (it is tried again) or done."""

    title: str
    state: str
    says: str


@dataclass(frozen=True, slots=True)
class Done:
    """One step: ``state`` is ahead, running, doubt, done, refused or skipped."""

    title: str
    state: str
    says: str
    detail: str
    undoing: Undoing | None


@dataclass(frozen=True, slots=True)
class Course:
    steps: tuple[Done, ...]
    says: str
    turned: bool
    """Whether it goes back."""


@dataclass(slots=True)
class Notes:
    """What was told of the attempts at a step, or at undoing it."""

    begun: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where the saga turned back, and why."""

    at: str
    why: str


class Told:
    """All that is known of one saga."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.types = {entry.type for entry in entries}
        self.kinds: tuple[Kind, ...] = KINDS
        self._used = set[str]()
        cut = next((entry.payload.get("reduction") for entry in entries if entry.type == "checkout.requested"), None)
        if cut:
            self.kinds, self._used = _kinds_of(cut)
        self._notes: dict[tuple[str, bool], Notes] = {}
        reason = ""
        for entry in entries:
            if entry.type == STEP:
                self._read(entry)
            elif entry.type == "checkout.failed":
                reason = str(entry.payload["reason"])
        self.turn = self._turned(reason)

    def note(self, kind: Kind, undoing: bool = False) -> Notes | None:
        """Give what was told of a step's attempts, or of those to undo it."""
        return self._notes.get((kind.name, undoing))

    def is_done(self, kind: Kind) -> bool:
        """Say whether a step is done, as far as the saga knows."""
        note = self.note(kind)
        if note is not None and note.last == "failed" and not ENDED & self.types:
            return False  # the service may have done it, and told; the saga does not know
        if kind is CONFIRM:
            return self._used <= self.types
        if kind is WAIT:
            return bool(set(kind.done_by) & self.types) or self.note(COMPLETE) is not None
        return bool(set(kind.done_by) & self.types) or (note is not None and note.last == "done")

    def _read(self, entry: Entry) -> None:
        told = entry.payload
        name = WAIT.name if told["step"] == "status_of" else str(told["step"])
        name = CONFIRM.name if name.startswith(f"{CONFIRM.name} ") else name
        note = self._notes.setdefault((name, bool(told["undoing"])), Notes())
        note.begun += told["what"] == "begun"
        note.last = str(told["what"])

    def _turned(self, reason: str) -> Turn | None:
        refused = next(
            (kind for kind in self.kinds if (note := self.note(kind)) is not None and note.last == "refused"), None
        )
        goes_back = reason or {"payment.failed", "reservation.refused"} & self.types or self._is_undoing()
        if "checkout.completed" in self.types or not (refused or goes_back):
            return None
        if "reservation.refused" in self.types:
            refused = RESERVE
        at = refused or next((kind for kind in self.kinds if not self.is_done(kind)), WAIT)
        return Turn(at.name, ENDS.get(reason) or self._why(at if refused else None))

    def _why(self, refused: Kind | None) -> str:
        """Say why it goes back, while the checkout has not told it yet."""
        if refused is not None and refused.name in REFUSED:
            return ENDS[REFUSED[refused.name]]
        if "payment.failed" in self.types:
            return ENDS["payment_failed"]
        return ENDS["customer"] if "checkout.cancel_requested" in self.types else "no answer, however often we asked"

    def _is_undoing(self) -> bool:
        return any(undoing for _, undoing in self._notes)


def _kinds_of(cut: Mapping[str, Any]) -> tuple[tuple[Kind, ...], set[str]]:
    """Give the steps of an order with this reduction, and the events that tell what was set aside as used."""
    kinds, used = [OPEN, HOLD_STOCK], {"stock.sold"}
    if cut["coupon"] is not None:
        kinds, used = [*kinds, HOLD_COUPON], used | {"coupon.used"}
    if Money.model_validate(cut["credit"]).minor:
        kinds, used = [*kinds, HOLD_CREDIT], used | {"credit.spent"}
    if Money.model_validate(cut["to_pay"]).minor:
        kinds += [CHARGE, WAIT]
    return (*kinds, COMPLETE, CONFIRM), used


def course_of(entries: Sequence[Entry]) -> Course | None:
    """Draw the saga so far; none where nobody leads the checkout."""
    told = Told(entries)
    if "checkout.requested" not in told.types:
        return None
    states = {kind: _state(kind, told) for kind in told.kinds}
    undone = [kind for kind in told.kinds if states[kind] == "done" or told.note(kind, undoing=True)]
    order = [kind.name for kind in reversed(undone) if kind.undoes is not None]
    steps = tuple(
        Done(kind.does, state, WORDS[state], _detail(kind, state, told), _undoing(kind, told, order))
        for kind, state in states.items()
    )
    return Course(steps, _summary(told), told.turn is not None)


def _state(kind: Kind, told: Told) -> str:
    if told.turn is not None and kind.name == told.turn.at:
        return "refused"
    if told.is_done(kind):
        return "done"
    if told.turn is not None:
        return "skipped"
    note = told.note(kind)
    if note is not None:
        return "doubt" if kind.is_call and (note.last == "failed" or note.begun > 1) else "running"
    return "running" if kind is OPEN or (kind is WAIT and told.is_done(CHARGE)) else "ahead"


def _detail(kind: Kind, state: str, told: Told) -> str:
    if state == "refused" and told.turn is not None:
        return told.turn.why
    note = told.note(kind) or Notes()
    if state == "doubt":
        return "an attempt ended without an answer; we ask again by its key"
    if kind is WAIT:
        return "nothing was heard; the bank was asked" if note.begun else ""
    if note.begun < 2 or kind is CONFIRM:
        return ""
    before = "the first" if note.begun == 2 else "the others"
    came = f"what {before} came to was asked by its key" if kind.is_call else f"{before} left nothing behind"
    return f"{note.begun} attempts; {came}"


def _undoing(kind: Kind, told: Told, order: Sequence[str]) -> Undoing | None:
    if told.turn is None or kind.undoes is None or kind.name not in order:
        return None
    note = told.note(kind, undoing=True) or Notes()
    if note.last == "done" or set(kind.undone_by) & told.types:
        says = f"undone {NUMBERS[order.index(kind.name)]}"
        return Undoing(kind.undoes, "done", f"{says}, at attempt {note.begun}" if note.begun > 1 else says)
    if note.last == "failed":
        return Undoing(kind.undoes, "failed", f"attempt {note.begun} failed; tried again until it is done")
    return Undoing(kind.undoes, "running" if note.begun else "due", "under way" if note.begun else "to be undone")


def _summary(told: Told) -> str:
    if "checkout.completed" in told.types and CONFIRM in told.kinds and not told.is_done(CONFIRM):
        return "Nothing is undone any more: what was set aside is used now, for as long as it takes."
    if "checkout.completed" in told.types:
        return "All steps are done. The rest is told by one event, and nothing is undone any more."
    if told.turn is None:
        return "Each step is asked for in turn. If one says no, those before it are undone."
    if "checkout.failed" in told.types:
        return "One step failed, so those before it are undone, the last first."
    return "One step failed: those before it are being undone, the last first."
