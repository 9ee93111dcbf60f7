"""What happens to ids."""

from __future__ import annotations

from dataclasses import dataclass

from txpatterns.hooks import Moment


@dataclass(frozen=True, slots=True)
class IdSourceChanged(Moment):
    """A chain of id sources now takes its ids from another one."""

    source: str
    place: int
    """Of the source in the chain; 0 is the one that is wanted."""
    reason: str
    """Why the ones before it give none; empty where there are none before it."""
