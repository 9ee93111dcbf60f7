"""What a saga's code may wait for that others bring: times, events, answers to its commands, and locks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from txpatterns.errors import SagaDefinitionError
from txpatterns.messages import Event, describe
from txpatterns.retries import LONGEST_WAIT
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
        if not timedelta(0) <= time <= LONGEST_WAIT:
            raise SagaDefinitionError("A saga sleeps for no negative time, and for no more than a hundred years.")
        return self._replay.wait(Kind.SLEEP, Sleep(time), digest=str(time / timedelta(seconds=1)))

    def wait_for(self, event: type[E], *, key: object, timeout: timedelta | None, by: str | None = None) -> Wait[E]:
        """Wait until an event with this key arrives, or has arrived before; gives it.

        The event must be among the saga's ``signals=``; ``key`` is compared with the field that is named there, or
        else with the event's ordering key. Each saga that waits gets the event. Of several of a key it gets each
        once, in the order of their arrival; also those that arrived before the saga began, for as long as signals are
        kept. Where one event is declared by several fields, ``by`` says which is meant.

        Raises, when it is awaited:
            WaitTimedOut: nothing has come in ``timeout``; None waits for ever.

        Raises:
            SagaDefinitionError: the saga does not declare the event; or there is no such key.
        """
        signal = self._signal_of(event, by)
        work = WaitFor(signal, key_text(key), _checked(timeout), signal.form)
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
        work = Command(signal, key_text(key), _checked(timeout), signal.form, event)
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
        if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
            raise SagaDefinitionError(
                f"{name[:40]!r} is no name for a lock: 1 to {_LONGEST_NAME} printable characters."
            )
        _checked(timeout)
        return self._replay.operation(Kind.LOCK, Lock(name, timeout), name=name)

    def _signal_of(self, event: type[Event], by: str | None) -> Signal:
        found = [each for each in self._signals if each.event is event and by in (None, each.by)]
        if len(found) != 1:
            known = ", ".join(each.channel for each in self._signals) or "none"
            raise SagaDefinitionError(
                f"This saga does not declare {event.__name__} as one of its signals; they are: {known}.",
                fix="Write: @app.saga(signals=[...]).",
            )
        return found[0]


def _checked(timeout: timedelta | None) -> timedelta | None:
    """Give the longest time that something is waited for.

    Raises:
        SagaDefinitionError: it is none.
    """
    if timeout is not None and not timedelta(0) < timeout <= LONGEST_WAIT:
        raise SagaDefinitionError("A saga waits for more than no time, and for no more than a hundred years.")
    return timeout
