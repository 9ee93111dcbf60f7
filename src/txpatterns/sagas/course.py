"""One saga as its journal tells it: where its code stands, what is open, what is done and what is undone.

It plans what is to be written, and never takes anything back: when a write has not been committed, or nobody knows
whether it was, the course is thrown away, and a new one is made from the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from txpatterns.clock import Clock
from txpatterns.correlation import CORRELATION_ID
from txpatterns.errors import SagaDiverged, SagaValueRefused
from txpatterns.messages import Event
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.decisions import Again, error_of, failure_of, undoes
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Attempted, Ended, Fact, Failed, Failure, Finished, Noted, Undone, Waiting
from txpatterns.sagas.operations import Kind, Operation, Sleep, Step
from txpatterns.sagas.replay import Broken, Replay, Turn
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import NOW, Claimed, Entry, Standing, Write
from txpatterns.sagas.strands import Error, Outcome, Value
from txpatterns.sagas.transactions import Instance


@dataclass(slots=True)
class Open:
    """An operation that the code waits for."""

    operation: Operation[Any]
    attempts: int = 0
    due: float = 0.0
    """When it is to be begun, or ends by itself, by the monotonic clock."""
    is_running: bool = False

    @property
    def path(self) -> str:
        """Its place."""
        return self.operation.mark.path


class Course:
    """What is known of one saga, from its journal and from what has been written since.

    ``rebuild``, ``ended``, ``failed`` and ``close`` run the saga's code: call them where no task is current.
    """

    def __init__(self, definition: Definition, saga: Claimed, clock: Clock) -> None:
        self.definition = definition
        self.saga = saga
        self.instance = Instance(saga.type, saga.id, saga.started_at, saga.headers.get(CORRELATION_ID, saga.id))
        self.is_dropped = False
        """Whether it is thrown away: nothing may be written any more that it has planned."""
        self.rows = 0
        """How many rows the journal has."""
        self.open: dict[str, Open] = {}
        self.undo_attempts: dict[str, int] = {}
        self.failure: Failure | None = None
        """Why the saga is being undone."""
        self._clock = clock
        self._replay: Replay | None = None
        self._attention = saga.attention
        self._attempts: dict[str, int] = {}
        self._dues: dict[str, float] = {}
        self._done: list[Operation[Any]] = []
        self._undone: set[str] = set()
        self._unwritten: list[Fact] = []
        self._emits: list[tuple[str, Event]] = []

    def rebuild(self, entries: Sequence[Entry], now: datetime) -> Write | None:
        """Run the code to where the journal ends. Gives what is to be written before anything else, if there is any.

        Raises:
            SagaDiverged: it does not ask for what the journal has.
        """
        self.rows = len(entries)
        facts = [fact for entry in entries for fact in entry.facts]
        noted = {fact.mark.path: fact for fact in facts if isinstance(fact, Noted)}
        self._replay = replay = Replay(self._code, noted, Context())
        self._take(entries, now)
        turn = replay.follow(facts, self._outcome_of)
        if self.failure is not None:
            return None
        write = self._plan(turn)
        if write.standing is None:
            self._unwritten, self._emits = list(write.facts), list(write.emits)
            return None
        return write

    def ended(self, path: str, text: str, value: object) -> Write:
        """Tell the code that an operation has ended, and run it on; gives what is to be written."""
        opened = self.open.pop(path)
        self._done.append(opened.operation)
        return self._plan(self._running.give(path, Value(value)), Ended(opened.operation.mark, text))

    def failed(self, path: str, failure: Failure) -> Write:
        """Tell the code that an operation has failed for good, and run it on; gives what is to be written."""
        opened = self.open.pop(path)
        told = Error(error_of(failure, self.definition.options.errors))
        return self._plan(self._running.give(path, told), Failed(opened.operation.mark, failure))

    def again(self, path: str, decision: Again) -> Write:
        """Note that an attempt has failed and another one follows; gives what is to be written."""
        opened = self.open[path]
        opened.attempts += 1
        opened.due = self._clock.monotonic() + decision.after.total_seconds()
        opened.is_running = False
        seconds = decision.after.total_seconds()
        fact = Attempted(opened.operation.mark, opened.attempts, decision.failure, seconds)
        if decision.needs_attention:
            self._attention = _why(opened.operation, decision)
        standing = self.resting()
        if standing is None and decision.needs_attention:
            standing = Standing(Status.RUNNING, attention=self._attention)
        return self._taken(Write([*self._unwritten, fact], standing, list(self._emits)))

    def resting(self) -> Standing | None:
        """Say when a saga is due of which all that is open waits for a time; None: there is something to do now."""
        now = self._clock.monotonic()
        if not self.open or any(each.is_running or each.due <= now for each in self.open.values()):
            return None
        first = min(each.due for each in self.open.values())
        due = timedelta(seconds=max(first - now, 0.0))
        return Standing(Status.WAITING, due, is_owned=False, attention=self._attention)

    def to_undo(self) -> Operation[Any] | None:
        """Give what is to be undone next; None: nothing is left."""
        undoable = (each for each in reversed(self._done) if _can_be_undone(each))
        return next((each for each in undoable if each.mark.path not in self._undone), None)

    def undone(self, operation: Operation[Any]) -> Write:
        """Note that an operation is undone; gives what is to be written."""
        self._undone.add(operation.mark.path)
        standing = None
        if self.to_undo() is None:
            standing = self._compensated()
        elif self._attention is not None:
            self._attention = None
            standing = Standing(Status.COMPENSATING)
        return Write([Undone(operation.mark)], standing)

    def undo_again(self, operation: Operation[Any], decision: Again) -> Write:
        """Note that an attempt to undo an operation has failed; gives what is to be written."""
        path = operation.mark.path
        self.undo_attempts[path] = number = self.undo_attempts.get(path, 0) + 1
        if decision.needs_attention:
            self._attention = _why(operation, decision)
        seconds = decision.after.total_seconds()
        fact = Attempted(operation.mark, number, decision.failure, seconds, undoing=True)
        standing = Standing(Status.COMPENSATING, decision.after, is_owned=False, attention=self._attention)
        return Write([fact], standing)

    def stuck(self, why: str) -> Write:
        """Give what is to be written where this code cannot go on: another text of it may."""
        return Write((), self._stuck(why))

    @property
    def is_past_pivot(self) -> bool:
        """Whether the saga only goes forward from here on."""
        return any(mark.kind == Kind.PIVOT for mark in self._running.story)

    @property
    def running(self) -> Replay:
        """The run of the code."""
        return self._running

    def close(self) -> list[str]:
        """Put the code away; gives in words what does not let itself be put away."""
        return [] if self._replay is None else self._replay.close()

    @property
    def _running(self) -> Replay:
        assert self._replay is not None, "the course is rebuilt first"
        return self._replay

    def _code(self, replay: Replay) -> Any:
        options, saga = self.definition.options, self.saga
        arguments: Any = self.definition.arguments.read(saga.args)
        context = SagaContext(replay, self.instance, saga.version, options.retry, self._clock)
        return self.definition.function(context, *arguments)

    def _outcome_of(self, operation: Operation[Any], fact: Ended | Failed) -> Outcome:
        if isinstance(fact, Failed):
            return Error(error_of(fact.failure, self.definition.options.errors))
        self._done.append(operation)
        if not isinstance(operation.work, Step):
            return Value(None)
        try:
            return Value(operation.work.form.read(fact.value))
        except ValueError as error:
            raise SagaDiverged(
                f"What {fact.mark} at {fact.mark.path} gave is not what it is said to give now."
            ) from error

    def _take(self, entries: Sequence[Entry], now: datetime) -> None:
        """Take what the journal says beside what the code is told."""
        for entry in entries:
            since = self._clock.monotonic() - (now - entry.at).total_seconds()
            for fact in entry.facts:
                match fact:
                    case Waiting():
                        self._dues[fact.mark.path] = since + fact.seconds
                    case Attempted(undoing=True):
                        self.undo_attempts[fact.mark.path] = fact.number
                    case Attempted():
                        self._dues[fact.mark.path] = since + fact.after
                        self._attempts[fact.mark.path] = fact.number
                    case Undone():
                        self._undone.add(fact.mark.path)
                    case Finished():
                        self.failure = fact.failure
                    case _:
                        continue

    def _plan(self, turn: Turn, *facts: Fact) -> Write:
        """Say what is to be written behind a turn."""
        added: list[Fact] = [*turn.notes]
        for operation in turn.operations:
            path = operation.mark.path
            self.open[path] = opened = Open(operation, self._attempts.get(path, 0), self._dues.get(path, 0.0))
            if isinstance(operation.work, Sleep) and path not in self._dues:
                seconds = operation.work.time.total_seconds()
                opened.due = self._clock.monotonic() + seconds
                added.append(Waiting(operation.mark, seconds))
        standing = self.resting() if turn.end is None else self._at_end(turn.end, added)
        if standing is not None and standing.diverged is not None:
            # What the code was told in this turn has had no consequence, and may be told anew.
            return self._taken(Write([*self._unwritten, *facts], standing, list(self._emits)))
        if standing is None and self._attention is not None:
            standing = Standing(Status.RUNNING)
        if standing is not None:
            self._attention = standing.attention
        self._emits += turn.emits
        return self._taken(Write([*self._unwritten, *facts, *added], standing, list(self._emits)))

    def _at_end(self, end: Outcome | Broken, added: list[Fact]) -> Standing:
        """Say where the end of the code leaves the saga, and add the fact of it."""
        if isinstance(end, Value):
            try:
                result, _ = self.definition.result.write(end.value)
            except SagaValueRefused as error:
                return self._stuck(error.message)
            added.append(Finished(value=result))
            return Standing(Status.COMPLETED, None, is_owned=False, result=result)
        if isinstance(end, Broken):
            return self._stuck(end.text)
        failure = failure_of(end.error, self.definition.options.errors)
        if self.is_past_pivot or not undoes(end.error):
            return self._stuck(failure.text)
        self.failure = failure
        added.append(Finished(failure=failure))
        return self._compensated() if self.to_undo() is None else Standing(Status.COMPENSATING, error=self._told())

    def _stuck(self, why: str) -> Standing:
        status = Status.RUNNING if self.failure is None else Status.COMPENSATING
        return Standing(status, NOW, is_owned=False, attention=why, diverged=self.definition.fingerprint)

    def _taken(self, write: Write) -> Write:
        self._unwritten, self._emits = [], []
        return write

    def _compensated(self) -> Standing:
        return Standing(Status.COMPENSATED, None, is_owned=False, error=self._told())

    def _told(self) -> str:
        assert self.failure is not None
        return f"{self.failure.type.rpartition(':')[2]}: {self.failure.text}"


def _can_be_undone(operation: Operation[Any]) -> bool:
    return isinstance(operation.work, Step) and operation.work.compensate is not None


def _why(operation: Operation[Any], decision: Again) -> str:
    return f"{operation.mark.name} fails: {decision.failure.text}"
