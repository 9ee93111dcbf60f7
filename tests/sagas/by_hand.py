"""Driving a saga's code without an engine: a journal in a list, and whoever decides what ends next."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any

from txpatterns.clock import SystemClock
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.definitions import Definitions, Options
from txpatterns.sagas.facts import Begun, Ended, Fact, Failed, Finished, Mark, Noted, read, written
from txpatterns.sagas.following import follow
from txpatterns.sagas.operations import Operation
from txpatterns.sagas.replay import Broken, Replay, Turn
from txpatterns.sagas.strands import Outcome, Value
from txpatterns.sagas.transactions import Instance

Code = Callable[[SagaContext], Awaitable[object]]
INSTANCE = Instance("shop.checkout", "checkout-7", datetime(2026, 1, 1, tzinfo=UTC), "story")


class FixedClock(SystemClock):
    """A clock that is another one each time that it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def now(self) -> datetime:
        self.asked += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=self.asked)


def replay_of(code: Code, facts: list[Fact] | None = None) -> Replay:
    """Make a run of a saga's code, with what the journal has noted."""
    clock = FixedClock()

    def begin(replay: Replay) -> Any:
        return code(SagaContext(replay, INSTANCE, 1, Options(), clock.now, Definitions("shop")))

    noted = {fact.mark.path: fact for fact in facts or () if isinstance(fact, Noted)}
    return Replay(begin, noted, Context())


class Journal:
    """One saga: its code, and the facts so far."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.facts: list[Fact] = []
        self.replay = replay_of(code)
        self.turn = self._kept(self.replay.begin())

    def end(self, path: str, value: object = None) -> Turn:
        """Let an operation that is waited for end."""
        mark = self.replay.waiting[path].mark
        self.facts.append(Ended(mark, json.dumps(value)))
        return self._kept(self.replay.give(path, Value(value)))

    def again(self) -> Replay:
        """Run the code again from the journal, as it reads after it was written."""
        facts = read(written(self.facts))
        replay = replay_of(self.code, facts)
        self.turn = follow(replay, facts, outcome_of)
        return replay

    def _kept(self, turn: Turn) -> Turn:
        self.facts += turn.notes
        if turn.end is not None and not isinstance(turn.end, Broken):
            self.facts.append(Finished())
        self.turn = turn
        return turn


def outcome_of(_: Operation[Any], fact: Ended | Failed) -> Outcome:
    """Give what a fact of these tests tells the code."""
    assert isinstance(fact, Ended)
    return Value(json.loads(fact.value))


def begun(path: str, kind: str, name: str) -> Begun:
    """Make the fact that a call may be under way."""
    return Begun(Mark(path, kind, name, ""))
