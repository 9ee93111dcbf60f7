"""The picture of a checkout's saga: its steps in order, and below each what undoes it. Pure: events in, picture out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shop.gateway.story import STEP, Entry


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


KINDS = (
    Kind(
        "open_session",
        "Open a session",
        "Session failed",
        False,
        ("reservation.made", "reservation.refused", "checkout.failed"),
        ("checkout.failed",),
    ),
    Kind(
        "reserve",
        "Set stock aside",
        "Stock put back",
        True,
        ("reservation.made",),
        ("reservation.released", "checkout.failed"),
    ),
    Kind("charge", "Ask for the money", "Charge undone", True, ("payment.session_opened",), ("checkout.failed",)),
    Kind("wait", "Wait for the bank", None, False, ("checkout.completed",)),
    Kind("complete_session", "Complete", None, False, ("checkout.completed",)),
)
ENDS = {
    "payment_failed": "the bank declined",
    "payment_window": "no answer in time",
    "customer": "you called it off",
    "out_of_stock": "not enough on the shelf",
}
ENDED = {"checkout.completed", "checkout.failed"}
NUMBERS = ("", "first", "second", "third")


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
    error: str = ""


def course_of(entries: Sequence[Entry]) -> Course | None:
    """Draw the saga so far; none where nobody leads the checkout."""
    types = [entry.type for entry in entries]
    if "checkout.requested" not in types:
        return None
    notes: dict[tuple[str, bool], Notes] = {}
    for entry in entries:
        if entry.type == STEP:
            _read(notes, entry)
    reason = next((str(entry.payload["reason"]) for entry in entries if entry.type == "checkout.failed"), "")
    turn = _turn(types, notes, reason)
    states = [_state(kind, types, notes, turn) for kind in KINDS]
    order = [kind.name for kind, state in zip(KINDS, states, strict=True) if kind.undoes and state == "done"][::-1]
    steps = tuple(
        Done(
            kind.does, state, _says(state), _detail(kind, state, notes, turn), _undoing(kind, types, notes, turn, order)
        )
        for kind, state in zip(KINDS, states, strict=True)
    )
    return Course(steps, _summary(types, turn), turn is not None)


@dataclass(frozen=True, slots=True)
class Turn:
    """Where the saga turned back, and why."""

    at: str
    why: str


def _read(notes: dict[tuple[str, bool], Notes], entry: Entry) -> None:
    told = entry.payload
    name = "wait" if told["step"] == "status_of" else str(told["step"])
    note = notes.setdefault((name, bool(told["undoing"])), Notes())
    note.begun += told["what"] == "begun"
    note.last, note.error = str(told["what"]), str(told.get("error") or note.error)


def _turn(types: Sequence[str], notes: dict[tuple[str, bool], Notes], reason: str) -> Turn | None:
    refused = next((name for (name, undoing), note in notes.items() if note.last == "refused" and not undoing), None)
    if refused is None and not (reason or "payment.failed" in types or any(undoing for _, undoing in notes)):
        return None
    why = ENDS.get(reason, "")
    if refused == "reserve" or "reservation.refused" in types:
        return Turn("reserve", why or ENDS["out_of_stock"])
    if "checkout.completed" in types:
        return None
    at = refused or next((kind.name for kind in KINDS if not _is_done(kind, types, notes)), "wait")
    return Turn(at, why or (ENDS["payment_failed"] if "payment.failed" in types else ""))


def _is_done(kind: Kind, types: Sequence[str], notes: dict[tuple[str, bool], Notes]) -> bool:
    note = notes.get((kind.name, False))
    if note is not None and note.last == "failed" and not ENDED & set(types):
        return False  # the service may have done it, and told; the saga does not know
    return bool(set(kind.done_by) & set(types)) or (kind.name != "wait" and note is not None and note.last == "done")


def _state(kind: Kind, types: Sequence[str], notes: dict[tuple[str, bool], Notes], turn: Turn | None) -> str:
    if turn is not None and kind.name == turn.at:
        return "refused"
    if _is_done(kind, types, notes) or (kind.name == "wait" and ("complete_session", False) in notes):
        return "done"
    if turn is not None:
        return "skipped"
    note = notes.get((kind.name, False))
    if note is not None:
        return "doubt" if kind.is_call and (note.last == "failed" or note.begun > 1) else "running"
    asked = kind.name == "wait" and _is_done(KINDS[2], types, notes)
    return "running" if asked or kind.name == "open_session" else "ahead"


def _says(state: str) -> str:
    return {
        "ahead": "still ahead",
        "running": "under way",
        "doubt": "in doubt",
        "done": "done",
        "refused": "failed",
        "skipped": "not reached",
    }[state]


def _detail(kind: Kind, state: str, notes: dict[tuple[str, bool], Notes], turn: Turn | None) -> str:
    if state == "refused" and turn is not None:
        return turn.why
    note = notes.get((kind.name, False), Notes())
    if state == "doubt":
        return "an attempt ended without an answer; we ask again by its key"
    if kind.name == "wait":
        return "nothing was heard; the bank was asked" if note.begun else ""
    if note.begun < 2:
        return ""
    before = "the first" if note.begun == 2 else "the others"
    came = f"what {before} came to was asked by its key" if kind.is_call else f"{before} left nothing behind"
    return f"{note.begun} attempts; {came}"


def _undoing(
    kind: Kind, types: Sequence[str], notes: dict[tuple[str, bool], Notes], turn: Turn | None, order: Sequence[str]
) -> Undoing | None:
    if turn is None or kind.undoes is None or kind.name not in order:
        return None
    note = notes.get((kind.name, True), Notes())
    if note.last == "done" or set(kind.undone_by) & set(types):
        says = f"undone {NUMBERS[order.index(kind.name) + 1]}"
        return Undoing(kind.undoes, "done", f"{says}, at attempt {note.begun}" if note.begun > 1 else says)
    if note.last == "failed":
        return Undoing(kind.undoes, "failed", f"attempt {note.begun} failed; tried again until it is done")
    return Undoing(kind.undoes, "running" if note.begun else "due", "under way" if note.begun else "to be undone")


def _summary(types: Sequence[str], turn: Turn | None) -> str:
    if "checkout.completed" in types:
        return "All steps are done. The rest is told by one event, and nothing is undone any more."
    if turn is None:
        return "Each step is asked for in turn. If one says no, those before it are undone."
    if "checkout.failed" in types:
        return "One step failed, so those before it are undone, the last first."
    return "One step failed: those before it are being undone, the last first."
