"""What follows when a saga's deadline has passed: before its pivot it is undone, behind it a person is told.

No code runs on. What has begun comes to its end, or is in doubt and has settled before it is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.course import Course
from txpatterns.sagas.decisions import aborted, is_past_pivot, line_of
from txpatterns.sagas.facts import Finished, Overdue
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import Entry, Standing, Write

DEADLINE = "deadline"
"""Who has ended a saga, where nobody has."""


def closing(saga: Claimed, entries: Sequence[Entry], now: datetime) -> Write | None:
    """Give what ends a saga whose deadline has passed before its pivot, from its journal alone; None: it goes on."""
    if saga.deadline_at is None or now < saga.deadline_at:
        return None
    facts = [fact for entry in entries for fact in entry.facts]
    if is_past_pivot(facts) or any(isinstance(fact, Finished) for fact in facts):
        return None
    failure = aborted(f"its deadline has passed: {saga.deadline_at:%Y-%m-%d %H:%M:%S} UTC")
    standing = Standing(Status.COMPENSATING, error=line_of(failure))
    return Write([Finished(failure=failure, by=DEADLINE)], standing, waits_no_more=True)


def left_alone(saga: Claimed, entries: Sequence[Entry], now: datetime, why: str) -> Write:
    """Leave a saga that processes have died of to a person, and until its deadline: then it is closed like any other.

    Its code does not run for that. To undo it takes the code, and the actions that undo: it is given to its next owner
    for that, and left alone for good when as many die of it again.
    """
    closed = closing(saga, entries, now)
    if closed is not None and closed.standing is not None:
        return replace(closed, standing=replace(closed.standing, is_owned=False))
    facts = [fact for entry in entries for fact in entry.facts]
    ends = is_past_pivot(facts) or any(isinstance(fact, Finished) for fact in facts)
    due = None if ends or saga.deadline_at is None else saga.deadline_at - now
    return Write((), Standing(saga.status, due, is_owned=False, attention=why, crashes=saga.crashes))


def told(course: Course) -> Write:
    """Note that a saga is late that only goes forward, and that a person is told; gives what is to be written."""
    course.deadline.lift()
    course.attention = "its deadline has passed behind its pivot; it goes on"
    return course.write([Overdue()], Standing(Status.RUNNING, attention=course.attention))
