"""Following a journal: a saga's code is run to where it ends, and asks for what is in it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from txpatterns.errors import SagaDiverged
from txpatterns.sagas.facts import Attempted, Begun, Ended, Fact, Failed, Finished, Mark, Waiting
from txpatterns.sagas.operations import Operation
from txpatterns.sagas.replay import Replay, Turn, differs, listed
from txpatterns.sagas.strands import Outcome


def follow(
    replay: Replay, facts: Iterable[Fact], outcome_of: Callable[[Operation[Any], Ended | Failed], Outcome]
) -> Turn:
    """Run the code to where a journal ends. Its turn holds whatever it waits for then, and its end.

    Raises:
        SagaDiverged: the code does not ask for what the journal has.
    """
    replay.is_following = True
    try:
        turn = replay.begin()
        for fact in facts:
            match fact:
                case Ended() | Failed():
                    operation = _found(replay, fact.mark, turn)
                    turn = _after(turn, replay.give(fact.mark.path, outcome_of(operation, fact)))
                case Begun() | Waiting() | Attempted(undoing=False):
                    _found(replay, fact.mark, turn)
                case Finished(by=None) if turn.end is None:
                    raise SagaDiverged("The code had come to its end, and now waits for more.")
    finally:
        replay.is_following = False
    if turn.end is None:
        missing = replay.noted.keys() - {mark.path for mark in replay.story}
        if missing:
            raise SagaDiverged(f"The code had asked for {replay.noted[min(missing)].mark}, and now does not.")
    turn.operations = list(replay.waiting.values())
    return turn


def differences(first: Replay, again: Replay) -> str | None:
    """Say where two runs of the same saga are not the same; None where they are."""
    for one, other in zip(first.story, again.story, strict=False):
        if one != other:
            return differs(one, other)
    if len(first.story) != len(again.story):
        longer = max(first.story, again.story, key=len)
        return f"Only one of two runs asks for {longer[min(len(first.story), len(again.story))]}."
    if first.waiting.keys() != again.waiting.keys():
        return f"One run waits for {listed(first.waiting.values())}, the other for {listed(again.waiting.values())}."
    return None


def _found(replay: Replay, mark: Mark, turn: Turn) -> Operation[Any]:
    waiting = replay.waiting.get(mark.path)
    if waiting is None:
        drawn = replay.drawn.get(mark.path)
        if drawn is not None and drawn.mark != mark:
            raise SagaDiverged(differs(mark, drawn.mark))
        now = f"has ended ({turn.end})" if turn.end is not None else f"waits for {listed(replay.waiting.values())}"
        raise SagaDiverged(f"At {mark.path} the journal has {mark}; the code {now}.")
    if waiting.mark != mark:
        raise SagaDiverged(differs(mark, waiting.mark))
    return waiting


def _after(first: Turn, then: Turn) -> Turn:
    """Make one turn of two."""
    then.notes[:0], then.emits[:0], then.dropped[:0] = first.notes, first.emits, first.dropped
    return then
