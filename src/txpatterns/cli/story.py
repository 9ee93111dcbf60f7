"""A saga's journal as a person reads it: a line for each thing that has happened, and what is open now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from txpatterns.sagas.facts import (
    PARENT,
    Attempted,
    Begun,
    Ended,
    Fact,
    Failed,
    Failure,
    Finished,
    Had,
    Mark,
    Noted,
    Overdue,
    Restarted,
    Undone,
    Waiting,
)
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.store import Entry
from txpatterns.settings import duration_text
from txpatterns.text import one_line

_BY = {"operator": "an operator", "deadline": "its deadline", PARENT: "its parent"}
_VALUE = 80
"""Characters of a value in a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that has happened."""

    at: datetime
    path: str | None
    operation: str | None
    what: str
    value: str | None = None
    """As JSON; None where there is none, or it is not to be shown."""
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class OpenLine:
    """What the journal knows of something that is not at its end."""

    path: str
    operation: str
    what: str
    until: datetime | None = None
    other: str | None = None
    """What becomes of that elsewhere."""


def story_of(journal: Sequence[Entry], *, values: bool) -> list[Line]:
    """Tell a journal; ``values`` says whether with what it keeps, which may be personal data."""
    return [_line(entry.at, fact, values=values) for entry in journal for fact in entry.facts]


def open_of(
    journal: Sequence[Entry], *, goes_on: bool, code: Mapping[str, str] | None, others: Mapping[str, str]
) -> list[OpenLine]:
    """Say what is open by a journal: what is in doubt, waits for another attempt, or waits for a time.

    ``goes_on`` says whether it does so without a person. ``code`` is what the code waits for, by path, where that is
    known: a journal does not say what was dropped because something else came first, nor what is to begin. ``others``
    is what becomes of what it waits for, by path.
    """
    found: dict[str, OpenLine] = {}
    for entry in journal:
        for fact in entry.facts:
            match fact:
                case Begun():
                    _put(found, fact.mark, "has begun, and nobody knows whether it has had its effect")
                case Waiting():
                    _put(found, fact.mark, *_waits(entry.at, fact.seconds), others.get(fact.mark.path))
                case Attempted() if not goes_on:
                    _put(found, fact.mark, "has failed, and waits for a person")
                case Attempted():
                    tried = f"is {'undone' if fact.undoing else 'tried'} again, for attempt {fact.number + 1}, at"
                    _put(found, fact.mark, tried, entry.at + timedelta(seconds=fact.after))
                case Ended() | Failed() | Undone():
                    found.pop(fact.mark.path, None)
                case Finished():
                    found = {path: each for path, line in found.items() if (each := _behind_the_end(line, others))}
                case Noted() | Overdue() | Restarted() | Had():
                    continue
    if code is not None:
        return [found.get(path) or OpenLine(path, operation, "is to begin") for path, operation in code.items()]
    return list(found.values())


def lines_of(story: Sequence[Line], opened: Sequence[OpenLine]) -> Iterator[str]:
    """Lay a story out for a person; what is undone is indented."""
    paths = max((len(line.path or "") for line in story), default=0)
    for line in story:
        named = f"{line.operation}: " if line.operation else ""
        indent = "    " if line.undoing else ""
        value = "" if line.value is None else f" {one_line(line.value, _VALUE)}"
        yield f"{_time(line.at)}  {(line.path or '').ljust(paths)}  {indent}{named}{one_line(line.what, 300)}{value}"
    for each in opened:
        until = "" if each.until is None else f" {_time(each.until)}"
        other = "" if each.other is None else f": {each.other}"
        yield f"now: {each.operation} at {each.path} {each.what}{until}{other}"


def _line(at: datetime, fact: Fact, *, values: bool) -> Line:
    mark = None if isinstance(fact, (Finished, Overdue, Restarted, Had)) else fact.mark
    what, value = _told(fact)
    undoing = isinstance(fact, Undone) or (isinstance(fact, Attempted) and fact.undoing)
    path, operation = (None, None) if mark is None else (mark.path, str(mark))
    return Line(at, path, operation, what, value if values else None, undoing)


def _told(fact: Fact) -> tuple[str, str | None]:
    """Say a fact in words, and give its value."""
    match fact:
        case Begun():
            return "begun", None
        case Ended():
            return "done", fact.value
        case Failed():
            doubt = ", and perhaps has had its effect" if fact.failure.unknown else ""
            return f"failed for good{doubt}: {_failure(fact.failure)}", fact.failure.arguments
        case Noted():
            return ("sent" if fact.mark.kind == Kind.EMIT else "noted"), fact.value
        case Attempted(by=None):
            again = f", again after {_about(fact.after)}" if fact.after else ""
            return f"attempt {fact.number} failed{again}: {_failure(fact.failure)}", None
        case Attempted():
            return f"the next attempt is brought forward by an {fact.by}", None
        case Waiting():
            limit = "" if fact.seconds is None else f", for {duration_text(timedelta(seconds=fact.seconds))} at most"
            sent = "sent, and " if fact.mark.kind == Kind.COMMAND else ""
            return f"{sent}waits{limit}", None
        case Undone():
            return "undone", None
        case _:
            return _told_of_whole(fact)


def _told_of_whole(fact: Restarted | Had | Overdue | Finished) -> tuple[str, str | None]:
    """Say a fact about the saga as a whole in words, and give its value."""
    match fact:
        case Restarted():
            return "begins anew with an empty journal", fact.args
        case Had():
            return f"what came for {fact.key} by then was had in a run before", None
        case Overdue():
            return "the deadline has passed behind the pivot: it goes on", None
        case Finished(failure=None):
            return "the code has ended", fact.value
        case Finished():
            assert fact.failure is not None
            who = "the code has failed" if fact.by is None else f"ended by {_BY.get(fact.by, fact.by)}"
            return f"{who}, what was done is undone: {_failure(fact.failure)}", fact.failure.arguments


def _waits(since: datetime, seconds: float | None) -> tuple[str, datetime | None]:
    return ("waits", None) if seconds is None else ("waits until", since + timedelta(seconds=seconds))


def _behind_the_end(line: OpenLine, others: Mapping[str, str]) -> OpenLine | None:
    """Say what is left of something that was open when the code came to its end, or was brought to it."""
    if line.operation.startswith(f"{Kind.CALL} "):
        return OpenLine(line.path, line.operation, "was under way, and perhaps has had its effect")
    if line.operation.startswith(f"{Kind.CHILD} "):
        return OpenLine(line.path, line.operation, "is cancelled, and waited for", other=others.get(line.path))
    return None


def _put(
    found: dict[str, OpenLine], mark: Mark, what: str, until: datetime | None = None, other: str | None = None
) -> None:
    found[mark.path] = OpenLine(mark.path, str(mark), what, until, other)


def _failure(failure: Failure) -> str:
    name = failure.type.rpartition(":")[2]
    return failure.text if failure.text.startswith(f"{name}:") else f"{name}: {failure.text}"


def _about(seconds: float) -> str:
    """Say a time in words; of a long one the small parts are left out."""
    unit = 0.001 if seconds < 10 else 1 if seconds < 600 else 60 if seconds < 100_000 else 3600
    return duration_text(timedelta(seconds=round(seconds / unit) * unit))


def _time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")
