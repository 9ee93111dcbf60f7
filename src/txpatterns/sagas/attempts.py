"""Planning what is written when an operation is tried again.

What goes on for long with nothing but the time changing, a breaker that is open or an action that fails for ever, does
not make the journal longer: the row of the next attempt takes the place of the one before.
"""

from __future__ import annotations

from dataclasses import replace

from txpatterns.errors import NotBegun
from txpatterns.sagas.course import Course, why
from txpatterns.sagas.decisions import Again, failure_of
from txpatterns.sagas.facts import Attempted, Begun, Fact
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import CallOut
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import Standing, Write

_LEFT = failure_of(NotBegun())
"""Of a call whose process stopped before it was begun."""


def again(course: Course, path: str, decision: Again) -> Write:
    """Note that an attempt has failed and another one follows; gives what is to be written."""
    opened = course.open[path]
    is_news = course.attention is None or not opened.is_flagged
    opened.attempts += decision.counts
    seconds = decision.after.total_seconds()
    opened.due = course.clock.monotonic() + seconds
    was_running, opened.is_running = opened.is_running, False
    opened.is_in_doubt = opened.is_in_doubt or (decision.counts and isinstance(opened.operation.work, CallOut))
    opened.is_begun = decision.counts or opened.is_in_doubt
    fact = Attempted(
        opened.operation.mark,
        opened.attempts,
        decision.failure,
        seconds,
        begun=opened.is_begun,
        folds=decision.goes_on_like_that,
    )
    if decision.needs_attention:
        course.attention = why(opened.operation, decision)
    standing = course.resting()
    opened.is_running = was_running  # until this is written: it is begun once at a time
    if decision.needs_attention:
        standing = replace(standing or Standing(Status.RUNNING, attention=course.attention), is_news=is_news)
    write = course.write([fact], standing)
    if opened.row is None and not opened.is_begun and isinstance(opened.operation.work, CallOut):
        return write  # that it was not begun stays, and so the next beginning has a row of its own
    return _in_place(course, opened, write, folds=fact.folds)


def begins(course: Course, path: str) -> Write:
    """Note that a call may be under way, of which it was noted that it was not; gives what is to be written."""
    opened = course.open[path]
    opened.is_begun = True
    return _in_place(course, opened, course.write([Begun(opened.operation.mark)], None), folds=True)


def left(course: Course) -> Write | None:
    """Note of calls that they were not begun after all, now that nothing runs any more."""
    facts: list[Fact] = [
        Attempted(opened.operation.mark, opened.attempts, _LEFT, 0.0, begun=False)
        for opened in course.open.values()
        if isinstance(opened.operation.work, CallOut) and opened.is_begun and not opened.is_in_doubt
    ]
    return course.write(facts, None) if facts else None


def _in_place(course: Course, opened: Open, write: Write, *, folds: bool) -> Write:
    """Let a write take the place of the one before it, where that is all that it is about."""
    if not folds or len(write.facts) > 1:
        opened.row = None
        return write
    instead, opened.row = opened.row, opened.row or course.rows + 1
    return replace(write, instead=instead)
