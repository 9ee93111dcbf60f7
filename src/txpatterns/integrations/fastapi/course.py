"""What is known of a request with a key while it is answered."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection

from txpatterns.integrations.answers import Answer, Turn

_NAME = "txpatterns.course"


@dataclass
class Course:
    """One request with a key: from its turn to its answer."""

    fingerprint: str
    turn: Turn | None = None
    """None while it has not got it."""
    first: Answer | None = None
    """What an earlier request was answered."""
    session: AsyncSession | Session | None = None
    """The one whose transaction has the request's effect."""
    kept: Answer | None = None
    """What was written down in that session."""
    is_lost: bool = False
    """Whether another request has taken over."""
    background: BackgroundTask | None = None
    """What is to be done after the answer."""


def begin_course(scope: MutableMapping[str, Any], fingerprint: str) -> Course:
    """Make it known to whatever answers the request that it has a key."""
    course = scope[_NAME] = Course(fingerprint)
    return course


def course_of(scope: MutableMapping[str, Any]) -> Course | None:
    """Give what is known of the request; None where it has no key."""
    found: Course | None = scope.get(_NAME)
    return found


def idempotency_key(request: HTTPConnection) -> str | None:
    """Give the request's Idempotency-Key, as a path operation passes it on to work that is done elsewhere.

    None without one. It is the principal's: another one's of the same name stands for something else.
    """
    course = course_of(request.scope)
    return None if course is None or course.turn is None else course.turn.key


def note_session(scope: MutableMapping[str, Any], session: AsyncSession | Session) -> None:
    """Say which session has the request's effect: the first one counts."""
    course = course_of(scope)
    if course is not None and course.session is None:
        course.session = session
