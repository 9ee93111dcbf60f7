"""What sagas wait for from outside: events, each under a channel and a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from txpatterns.errors import SagaDefinitionError
from txpatterns.messages import Event, describe
from txpatterns.sagas.operations import Outside
from txpatterns.sagas.values import Form

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Signal:
    """An event that a saga may wait for, and what of it tells which saga is meant.

    ``by`` names a field; without it, it is the event's ordering key.
    """

    event: type[Event]
    by: str | None = None

    def __post_init__(self) -> None:
        given: object = self.event
        if not (isinstance(given, type) and issubclass(given, Event)):
            raise SagaDefinitionError(f"signals= takes event classes, not {given!r}.")
        spec = describe(self.event)
        if self.by is not None and self.by not in self.event.model_fields:
            raise SagaDefinitionError(f"{self.event.__name__} has no field {self.by!r}.")
        if self.by is None and spec.key is None:
            raise SagaDefinitionError(
                f"{self.event.__name__} has no key.", fix=f'Write: Signal({self.event.__name__}, by="field").'
            )

    @property
    def channel(self) -> str:
        """Tells what is waited for from all else."""
        return f"{describe(self.event).type}:{self.by or ''}"

    @property
    def form(self) -> Form:
        """How such events are written and read."""
        return Form(self.event, f"The event {self.event.__name__}")

    def key_of(self, event: Event) -> str | None:
        """Give what tells which saga an event is for; None: it is for nobody."""
        found = event.key_of() if self.by is None else getattr(event, self.by)
        return None if found is None else key_text(found)


def signals_of(given: Iterable[type[Event] | Signal]) -> tuple[Signal, ...]:
    """Make signals of what was given: classes of events stand for themselves, by their keys.

    Raises:
        SagaDefinitionError: it is no list of events.
    """
    if isinstance(given, (type, Signal)):
        raise SagaDefinitionError("signals= takes a list.", fix="Write: signals=[PaymentCaptured], say.")
    return tuple(each if isinstance(each, Signal) else Signal(each) for each in given)


def key_text(key: object) -> str:
    """Give a key as it is compared.

    Raises:
        SagaDefinitionError: it is nothing, or too long.
    """
    text = str(key)
    if key is None or not text or len(text) > _LONGEST or "\x00" in text:
        raise SagaDefinitionError(f"{text[:40]!r} is no key to wait for.", fix=f"Give it 1 to {_LONGEST} characters.")
    return text


@dataclass(frozen=True, slots=True)
class WaitFor(Outside):
    """Waiting for an event: the work of an operation."""

    signal: Signal
    key: str
    timeout: timedelta | None
    form: Any

    @property
    def limit(self) -> timedelta | None:
        """How long it is waited for, at most."""
        return self.timeout


@dataclass(frozen=True, slots=True)
class Command(WaitFor):
    """Sending an event and waiting for another one that answers it."""

    event: Event
