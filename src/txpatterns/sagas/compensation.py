"""Planning what is written while a saga is undone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from txpatterns.sagas.course import Course, why
from txpatterns.sagas.decisions import Again
from txpatterns.sagas.facts import Attempted, Undone
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import Standing, Write
from txpatterns.sagas.undoing import Deed


def undone(course: Course, deed: Deed) -> Write:
    """Note that something is undone; gives what is to be written."""
    course.undoing.undid(deed.path)
    standing = None
    if course.undoing.next() is None:
        standing = course.compensated()
    elif course.attention is not None:
        course.attention = None
        standing = Standing(Status.COMPENSATING)
    return course.concluded(Write([Undone(deed.operation.mark)], standing))


def again(course: Course, deed: Deed, decision: Again) -> Write:
    """Note that an attempt to undo something has failed; gives what is to be written."""
    attempts, ladder = course.undoing.attempts, deed.operation.work.ladder
    is_news = course.attention is None or attempts.get(deed.path, 0) < ladder.attempts
    attempts[deed.path] = number = attempts.get(deed.path, 0) + decision.counts
    if decision.needs_attention:
        course.attention = why(deed.operation, decision)
    seconds = decision.after.total_seconds()
    folds = decision.goes_on_like_that
    fact = Attempted(deed.operation.mark, number, decision.failure, seconds, undoing=True, folds=folds)
    rows = course.undoing.rows
    instead = rows.get(deed.path) if folds else None
    if folds:
        rows.setdefault(deed.path, course.rows + 1)
    return Write([fact], replace(later(course, decision.after), is_news=is_news), instead=instead)


def later(course: Course, after: timedelta) -> Standing:
    """Say where a saga stands that is undone further after a time."""
    return Standing(Status.COMPENSATING, after, is_owned=False, attention=course.attention)
