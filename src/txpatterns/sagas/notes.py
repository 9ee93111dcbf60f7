"""What a saga's code is told, or sends, without waiting: it is noted, and the same again in a replay."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime
from random import SystemRandom

from txpatterns.messages import Event, describe, new_id
from txpatterns.sagas.definitions import Options
from txpatterns.sagas.final import SagaReserves
from txpatterns.sagas.operations import Kind
from txpatterns.sagas.replay import Replay
from txpatterns.sagas.transactions import Instance
from txpatterns.sagas.values import digest_of

_random = SystemRandom()


class SagaNotes(SagaReserves):
    """Times, numbers and events. ``now`` gives the database's time."""

    def __init__(self, replay: Replay, instance: Instance, options: Options, now: Callable[[], datetime]) -> None:
        super().__init__(replay, instance, options)
        self._now = now

    def emit(self, event: Event) -> None:
        """Send an event together with the next thing that the journal keeps: once."""
        self._replay.emit(event, name=describe(type(event)).type, digest=digest_of((event,), "emit"))

    def now(self) -> datetime:
        """Give the present instant, in UTC, by the database's clock, whatever machine this is; in a replay the same."""
        return datetime.fromisoformat(self._replay.note(Kind.NOW, lambda: self._now().isoformat()))

    def uuid(self) -> uuid.UUID:
        """Give a new UUID, of version 7; in a replay the same again."""
        return uuid.UUID(self._replay.note(Kind.UUID, new_id))

    def random(self) -> float:
        """Give a random number from 0 to below 1; in a replay the same again."""
        drawn: float = json.loads(self._replay.note(Kind.RANDOM, lambda: json.dumps(_random.random())))
        return drawn
