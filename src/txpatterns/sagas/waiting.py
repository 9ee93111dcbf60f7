"""What a saga's code may wait for that others bring: times, events, answers to its commands, and locks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from txpatterns.errors import SagaDefinitionError
from txpatterns.messages import Event, describe
from txpatterns.retries import LONGEST_WAIT
from txpatterns.sagas.given import instance, some_time
from txpatterns.sagas.operations import Kind, Lock, Operation, Sleep, Wait
from txpatterns.sagas.replay import Replay
from txpatterns.sagas.signals import Command, Signal, WaitFor, key_text
from txpatterns.sagas.values import digest_of

E = TypeVar("E", bound=Event)

_LONGEST_NAME = 200


class SagaWaits:
    """The operations that do nothing but wait."""

    def __init__(self, replay: Replay, signals: Sequence[Signal]) -> None:
        self._replay = replay
        self._signals = signals

    def sleep(self, time: timedelta) -> Wait[None]:
        """Wait until a time has passed by the database's clock, from when this is awaited first.

        The wait is a row, not a task: it lasts as long as need be, and outlives every process.
        """
        if not timedelta(0) <= instance(timedelta, time, "sleep") <= LONGEST_WAIT:
            raise SagaDefinitionError(
                f"{time} is no time to sleep for.", fix="Not less than nothing, and at most a hundred years."
            )
        return self._replay.wait(Kind.SLEEP, Sleep(time), digest=str(time / timedelta(seconds=1)))

    def wait_for(self, event: type[E], *, key: object, timeout: timedelta | None, by: str | None = None) -> Wait[E]:
        """Wait until an event with this key arrives, or has arrived before; gives it.

        The event must be among the saga's ``signals=``; ``key`` is compared with the field that is named there, or
        else with the event's ordering key. Each saga that waits gets the event. Of several of a key it gets each
        once, in the order of their arrival; also those that arrived before the saga began, for as long as signals are
        kept. Where one event is declared by several fields, ``by`` says which is meant; without it, its ordering key.

        Raises, when it is awaited:
            WaitTimedOut: nothing has come in ``timeout``; None waits for ever.

        Raises:
            SagaDefinitionError: the saga does not declare the event; or there is no such key.
        """
        signal = self._signal_of(event, by)
        work = WaitFor(signal, key_text(key), _limit(timeout, event), signal.form)
        digest = digest_of((work.key,), signal.channel)
        return self._replay.wait(Kind.WAIT, work, name=signal.channel, digest=digest)

    def command(
        self, event: Event, *, reply: type[E], key: object, timeout: timedelta | None, by: str | None = None
    ) -> Wait[E]:
        """Send an event that asks somebody to do something, and wait for the event that answers it; gives that.

        Both are one commit: nobody waits for the answer to what was not sent, and it is sent once. It is sent when
        this is awaited. ``reply`` and ``key`` say which event is the answer, as in ``wait_for``: also one counts that
        has arrived before. So give each command a key of its own, or one that the answer to it may be shared by.

        Raises, when it is awaited:
            WaitTimedOut: nothing has come in ``timeout``; None waits for ever. What was sent is not taken back.

        Raises:
            SagaDefinitionError: the saga does not declare the reply; or there is no such key.
            SagaValueRefused: the event cannot be written as JSON.
        """
        signal = self._signal_of(reply, by)
        sent = describe(type(event)).type
        work = Command(signal, key_text(key), _limit(timeout, reply), signal.form, event)
        digest = digest_of((work.key, event), sent)
        return self._replay.wait(Kind.COMMAND, work, name=f"{sent} for {signal.channel}", digest=digest)

    def lock(self, name: str, *, timeout: timedelta) -> Operation[None]:
        """Wait until no other saga has a lock of this name, and have it until this saga's end.

        The end is when it has completed, or all is undone. It is a row: a process that dies leaves it with the saga.
        Sagas get a lock in the order in which they have asked for it; who has it may ask again. It keeps out who asks
        for it, too, and nobody else. Two sagas that wait for each other's locks wait until the ``timeout`` of one of
        them: ask for several in one order everywhere.

        Raises, when it is awaited:
            WaitTimedOut: others had it for all of ``timeout``.

        Raises:
            SagaDefinitionError: the name is none, or the time.
        """
        if not 1 <= len(instance(str, name, "lock")) <= _LONGEST_NAME or not name.isprintable():
            raise SagaDefinitionError(
                f"{name[:40]!r} is no name for a lock.", fix=f"Give it 1 to {_LONGEST_NAME} printable characters."
            )
        some_time(timeout, f"The timeout of the lock {name}")
        return self._replay.operation(Kind.LOCK, Lock(name, timeout), name=name)

    def _signal_of(self, event: type[Event], by: str | None) -> Signal:
        found = [each for each in self._signals if each.event is event and by in (None, each.by)]
        if by is None and len(found) > 1:  # that which is declared by its key, where there is one
            found = [each for each in found if each.by is None] or found
        if len(found) == 1:
            return found[0]
        if found:
            fields = " or ".join(f'by="{each.by}"' for each in found)
            raise SagaDefinitionError(
                f"{event.__name__} is declared by several of its fields.", fix=f"Say which is meant: {fields}."
            )
        raise SagaDefinitionError(
            f"This saga does not declare {_called(event, by)} as one of its signals; they are: {self._known()}.",
            fix="Write: @app.saga(signals=[...]).",
        )

    def _known(self) -> str:
        return ", ".join(_called(each.event, each.by) for each in self._signals) or "none"


def _limit(timeout: timedelta | None, event: type[Event]) -> timedelta | None:
    return None if timeout is None else some_time(timeout, f"The timeout of {event.__name__}")


def _called(event: type[Event], by: str | None) -> str:
    name = getattr(event, "__name__", repr(event))
    return name if by is None else f"{name} by {by}"
