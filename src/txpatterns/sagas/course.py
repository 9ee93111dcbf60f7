"""One saga as its journal tells it: where its code stands, what is open, what is done and what is undone.

It plans what is to be written, and never takes anything back: when a write has not been committed, or nobody knows
whether it was, the course is thrown away, and a new one is made from the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from txpatterns.clock import Clock
from txpatterns.correlation import CORRELATION_ID
from txpatterns.errors import NotBegun, SagaDiverged, SagaValueRefused
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.decisions import Again, error_of, failure_of, undoes
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Attempted, Begun, Ended, Fact, Failed, Failure, Finished, Noted, Waiting
from txpatterns.sagas.neighbours import Beside
from txpatterns.sagas.opened import Open
from txpatterns.sagas.operations import CallOut, Child, Kind, Lock, Operation, Outside, Sleep, Step
from txpatterns.sagas.past import Past
from txpatterns.sagas.pending import Pending
from txpatterns.sagas.replay import Broken, Replay, Turn
from txpatterns.sagas.schema import Status
from txpatterns.sagas.signals import WaitFor
from txpatterns.sagas.store import NOW, Claimed, Entry, Standing, Write
from txpatterns.sagas.strands import Error, Outcome, Value
from txpatterns.sagas.transactions import Instance
from txpatterns.sagas.undoing import Undoing


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
        self.undoing = Undoing()
        self.failure: Failure | None = None
        """Why the saga is being undone."""
        self._clock = clock
        self._replay: Replay | None = None
        self.attention = saga.attention
        """Why a person should look at the saga."""
        self._past = Past()
        self.pending = Pending()
        """What goes with the next write."""
        self.had: dict[tuple[str, str], int] = {}
        """The last signal that the saga has had, by channel and key."""

    def rebuild(self, entries: Sequence[Entry], now: datetime) -> Write | None:
        """Run the code to where the journal ends. Gives what is to be written before anything else, if there is any.

        Raises:
            SagaDiverged: it does not ask for what the journal has.
        """
        self.rows = len(entries)
        facts = [fact for entry in entries for fact in entry.facts]
        noted = {fact.mark.path: fact for fact in facts if isinstance(fact, Noted)}
        self._replay = replay = Replay(self._code, noted, Context())
        self._past = past = Past.of(entries, now, self._clock.monotonic())
        self.failure, self.undoing = past.failure, Undoing(past.undone, past.undo_attempts)
        turn = replay.follow(facts, self._outcome_of)
        if self.failure is not None:
            return self._to_undo(turn)
        write = self.plan(turn)
        if write.rests:  # whether something has come meanwhile is seen before it rests again
            write = replace(write, standing=None, rests=False)
        if write.standing is None and not any(isinstance(fact, Begun) for fact in write.facts):
            self.pending = Pending(list(write.facts), list(write.emits), list(write.unwaits))
            self.written()
            return None
        return write

    def written(self) -> None:
        """What was planned last is committed."""
        for opened in self.open.values():
            opened.is_ready = True

    def ended(self, path: str, text: str, value: object) -> Write:
        """Tell the code that an operation has ended, and run it on; gives what is to be written."""
        opened = self.open.pop(path)
        self.undoing.did(opened.operation, value)
        return self.plan(self.running.give(path, Value(value)), Ended(opened.operation.mark, text))

    def failed(self, path: str, failure: Failure) -> Write:
        """Tell the code that an operation has failed for good, and run it on; gives what is to be written."""
        opened = self.open.pop(path)
        if failure.unknown:
            self.undoing.may_have_done(opened.operation, self._clock.monotonic())
        told = Error(error_of(failure, self.definition.options.errors))
        return self.plan(self.running.give(path, told), Failed(opened.operation.mark, failure))

    def again(self, path: str, decision: Again) -> Write:
        """Note that an attempt has failed and another one follows; gives what is to be written."""
        opened = self.open[path]
        opened.attempts += decision.counts
        opened.due = self._clock.monotonic() + decision.after.total_seconds()
        was_running, opened.is_running = opened.is_running, False
        opened.is_in_doubt = opened.is_in_doubt or (decision.counts and isinstance(opened.operation.work, CallOut))
        seconds = decision.after.total_seconds()
        opened.is_begun = decision.counts or opened.is_in_doubt
        fact = Attempted(opened.operation.mark, opened.attempts, decision.failure, seconds, begun=opened.is_begun)
        if decision.needs_attention:
            self.attention = why(opened.operation, decision)
        standing = self.resting()
        opened.is_running = was_running  # until this is written: it is begun once at a time
        if standing is None and decision.needs_attention:
            standing = Standing(Status.RUNNING, attention=self.attention)
        return self.write([fact], standing)

    def begins(self, path: str) -> Write:
        """Note that a call may be under way, of which it was noted that it was not; gives what is to be written."""
        opened = self.open[path]
        opened.is_begun = True
        return self.write([Begun(opened.operation.mark)], None)

    def left(self) -> Write | None:
        """Note of calls that they were not begun after all, now that nothing runs any more."""
        facts: list[Fact] = [
            Attempted(opened.operation.mark, opened.attempts, _LEFT, 0.0, begun=False)
            for opened in self.open.values()
            if isinstance(opened.operation.work, CallOut) and opened.is_begun and not opened.is_in_doubt
        ]
        return self.write(facts, None) if facts else None

    def resting(self) -> Standing | None:
        """Say when a saga is due of which all that is open waits for a time; None: there is something to do now."""
        now = self._clock.monotonic()
        if not self.open or any(each.is_running or each.due <= now for each in self.open.values()):
            return None
        if any(isinstance(each.operation.work, Outside) and not each.is_registered for each in self.open.values()):
            return None
        first = min(each.due for each in self.open.values())
        due = None if first == inf else timedelta(seconds=max(first - now, 0.0))
        return Standing(Status.WAITING, due, is_owned=False, attention=self.attention)

    def stuck(self, why: str) -> Write:
        """Give what is to be written where this code cannot go on: another text of it may."""
        return Write((), self._stuck(why))

    @property
    def unwritten(self) -> Write:
        """What the code was told, and has sent, that is to be written with whatever comes next."""
        return Write(tuple(self.pending.facts), None, tuple(self.pending.emits))

    @property
    def is_past_pivot(self) -> bool:
        """Whether the saga only goes forward from here on."""
        return any(mark.kind == Kind.PIVOT for mark in self.running.story)

    @property
    def running(self) -> Replay:
        """The run of the code."""
        assert self._replay is not None, "the course is rebuilt first"
        return self._replay

    def close(self) -> list[str]:
        """Put the code away; gives in words what does not let itself be put away."""
        return [] if self._replay is None else self._replay.close()

    def _code(self, replay: Replay) -> Any:
        options, saga = self.definition.options, self.saga
        try:
            arguments: Any = self.definition.arguments.read(saga.args)
        except ValueError as error:
            raise SagaDiverged("It was started with other arguments than its code takes now.") from error
        context = SagaContext(replay, self.instance, saga.version, options, self._clock, self.definition.among)
        return self.definition.function(context, *arguments)

    def _outcome_of(self, operation: Operation[Any], fact: Ended | Failed) -> Outcome:
        path = operation.mark.path
        if isinstance(fact, Failed):
            if fact.failure.unknown:
                self.undoing.may_have_done(operation, self._past.begun.get(path, self._clock.monotonic()))
            return Error(error_of(fact.failure, self.definition.options.errors))
        value: object = None
        try:
            if isinstance(operation.work, (Step, CallOut, WaitFor, Child)):
                value = operation.work.form.read(fact.value)
            if isinstance(operation.work, WaitFor) and fact.signal is not None:
                self.had[operation.work.signal.channel, operation.work.key] = fact.signal
        except ValueError as error:
            raise SagaDiverged(f"What {fact.mark} at {path} gave is no value of what it gives now.") from error
        self.undoing.did(operation, value)
        return Value(value)

    def _to_undo(self, turn: Turn) -> Write | None:
        """Add what was under way when a person ended the saga; gives its end where nothing is to be undone."""
        for operation in turn.operations:
            if operation.mark.path in self._past.begun and isinstance(operation.work, CallOut):
                # Its last attempt may have begun at any time until then.
                self.undoing.may_have_done(operation, self._past.finished)
        for path in [*turn.dropped, *self.running.waiting]:
            self._may_go_on(path)
        if self.undoing.next() is None:
            return self.concluded(Write((), self.compensated()))
        waiting = self.running.waiting.values()
        leaves = [each.mark.path for each in waiting if isinstance(each.work, Lock)]
        return Write(beside=Beside(leaves=leaves)) if leaves else None

    def _may_go_on(self, path: str, opened: Open | None = None) -> bool:
        """Remember a child whose end is not waited for any more; says whether it is one that has begun."""
        operation = self.running.drawn[path]
        is_begun = path in self._past.dues if opened is None else opened.is_registered
        if isinstance(operation.work, Child) and is_begun:
            self.undoing.may_go_on(operation)
            return True
        return False

    def plan(self, turn: Turn, *facts: Fact) -> Write:
        """Say what is to be written behind a turn."""
        added: list[Fact] = [*turn.notes]
        for path in turn.dropped:
            dropped = self.open.pop(path, None)
            is_child = self._may_go_on(path, dropped)
            if dropped is not None and dropped.is_registered:
                self.pending.unwaits.append(path)
                if is_child:
                    self.pending.cancels.append((dropped.operation.work.type, dropped.operation.work.id))
        for operation in turn.operations:
            path = operation.mark.path
            self.open[path] = opened = Open(operation, self._past.attempts.get(path, 0), self._past.dues.get(path, 0.0))
            opened.is_in_doubt = path in self._past.begun
            if isinstance(operation.work, CallOut) and not opened.is_in_doubt:
                added.append(Begun(operation.mark))
            opened.is_registered = isinstance(operation.work, Outside) and path in self._past.dues
            if isinstance(operation.work, Sleep) and path not in self._past.dues:
                seconds = operation.work.time.total_seconds()
                opened.due = self._clock.monotonic() + seconds
                added.append(Waiting(operation.mark, seconds))
        standing = self.resting() if turn.end is None else self._at_end(turn.end, added)
        if standing is not None and standing.diverged is not None:
            # What the code was told in this turn has had no consequence, and may be told anew.
            return self.write(facts, standing)
        if standing is None and self.attention is not None:
            standing = Standing(Status.RUNNING)
        if standing is not None:
            self.attention = standing.attention
        self.pending.emits += turn.emits
        return self.write([*facts, *added], standing)

    def write(self, facts: Sequence[Fact], standing: Standing | None) -> Write:
        """Plan a write of what is pending, and of these facts behind it."""
        pending, self.pending = self.pending, Pending()
        waits = any(isinstance(each.operation.work, Outside) for each in self.open.values())
        return self.concluded(
            Write(
                [*pending.facts, *facts],
                standing,
                pending.emits,
                unwaits=pending.unwaits,
                rests=waits and standing is not None and standing.status is Status.WAITING,
                beside=Beside(cancels=pending.cancels, leaves=pending.leaves),
            )
        )

    def concluded(self, write: Write) -> Write:
        """Add what goes with the end of the saga, where a write is that."""
        if write.standing is None or not write.standing.is_end:
            return write
        works = [each.work for each in self.running.drawn.values()]
        waited, locked = (any(isinstance(work, kind) for work in works) for kind in (Outside, Lock))
        beside = replace(write.beside, parent=self.saga.parent, frees=locked)
        return replace(write, waits_no_more=waited, beside=beside)

    def at_rest(self, standing: Standing) -> Write:
        """Give what is to be written when nothing is left to do until a time, or until something comes."""
        return self.write((), standing)

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
        if self.is_past_pivot or not undoes(end.error, self.definition.options.errors):
            return self._stuck(failure.text)
        self.failure = failure
        added.append(Finished(failure=failure))
        return self.compensated() if self.undoing.next() is None else Standing(Status.COMPENSATING, error=self._told())

    def _stuck(self, why: str) -> Standing:
        status = Status.RUNNING if self.failure is None else Status.COMPENSATING
        return Standing(status, NOW, is_owned=False, attention=why, diverged=self.definition.fingerprint)

    def compensated(self) -> Standing:
        """Say where a saga stands of which all is undone that can be."""
        return Standing(Status.COMPENSATED, None, is_owned=False, error=self._told())

    def _told(self) -> str:
        assert self.failure is not None
        module, _, name = self.failure.type.rpartition(":")
        text = self.failure.text
        return text if text.startswith((f"{name}:", f"{module}.{name}:")) else f"{name}: {text}"


_LEFT = failure_of(NotBegun())
"""Of a call whose process stopped before it was begun."""


def why(operation: Operation[Any], decision: Again) -> str:
    """Say why a person should look at what fails again and again."""
    return f"{operation.mark.name} fails: {decision.failure.text}"
