"""What happens to a message that is given up."""

from __future__ import annotations

from dataclasses import dataclass

from txpatterns.hooks import Moment
from txpatterns.messages import Message


@dataclass(frozen=True, slots=True)
class Dead(Moment):
    """A message became a dead letter."""

    message: Message
    consumer: str | None
    """Who could not handle it; None when it could not be published."""
    error: str
