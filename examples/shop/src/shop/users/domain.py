"""The rules of accounts and sessions, as pure functions of what is known and what time it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

SESSION_LASTS = timedelta(days=30)
"""After that somebody signs in again, however often the session was prolonged."""
GRACE = timedelta(seconds=30)
"""For so long a token that was just exchanged may come again: its answer got lost, or two windows asked at once."""
SHORTEST_PASSWORD = 10
LONGEST_EMAIL = 254

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")


class EndReason(StrEnum):
    """Why a session has ended before its time."""

    LOGGED_OUT = "logged_out"
    TOKEN_REUSE = "token_reuse"  # noqa: S105 - a reason, and no secret


class Verdict(StrEnum):
    """What a presented refresh token is."""

    CURRENT = "current"
    REPEATED = "repeated"  # exchanged a moment ago; what it was exchanged for was not used yet
    REUSED = "reused"  # exchanged long ago, or its successor was used: two people have it
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Life:
    """A session as the rules see it. ``generation`` is that of its one valid refresh token."""

    generation: int
    rotated_at: datetime
    expires_at: datetime
    ended: bool


def judge(life: Life, generation: int, now: datetime) -> Verdict:
    """Say what a token of a session is that is of this generation.

    Who repeats the last exchange is given the same successor, and no second one, so a session has one valid token at
    any moment: a thief and the owner cannot go on side by side, for the second of them to come is noticed.
    """
    if life.ended or now >= life.expires_at:
        return Verdict.ENDED
    if generation == life.generation:
        return Verdict.CURRENT
    if generation == life.generation - 1 and now - life.rotated_at <= GRACE:
        return Verdict.REPEATED
    return Verdict.REUSED


def normal_email(text: str) -> str | None:
    """Write an e-mail address as accounts have it, so that one person has one account; None for what is none."""
    email = text.strip().casefold()
    return email if len(email) <= LONGEST_EMAIL and _EMAIL.fullmatch(email) else None
