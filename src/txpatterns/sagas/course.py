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
from txpatterns.errors import SagaDiverged, SagaValueRefused
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.deadline import Deadline
from txpatterns.sagas.decisions import Again, error_of, failure_of, line_of, undoes
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.facts import Begun, Ended, Fact, Failed, Failure, Finished, Had, Noted, Restarted
from txpatterns.sagas.fingerprints import stopped_with
from txpatterns.sagas.following import follow
from txpatterns.sagas.neighbours import Beside
from txpatterns.sagas.opened import Open, OpenOperations
from txpatterns.sagas.operations import CallOut, Child, Kind, Lock, Operation, Outside, Restarting, Step
from txpatterns.sagas.past import Past
from txpatterns.sagas.pending import Pending
from txpatterns.sagas.replay import Broken, Replay, Turn
from txpatterns.sagas.runs import UNDONE_FIRST, Restart
from txpatterns.sagas.schema import Status
from txpatterns.sagas.signals import WaitFor
from txpatterns.sagas.store import NOW, Entry, Standing, Write
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
        correlation_id = saga.headers.get(CORRELATION_ID, saga.id)
        self.instance = Instance(saga.type, saga.id, saga.started_at, correlation_id, saga.run)
        self.rows = 0
        """How many rows the journal has."""
        self.deadline = Deadline(clock)
        self._past = Past()
        self.open = OpenOperations(clock, self._past)
        self.undoing = Undoing()
        self.failure: Failure | None = None
        """Why the saga is being undone."""
        self.clock = clock
        self._zero = saga.claimed_at
        """When this process's monotonic clock was at nothing, by the database's."""
        self._replay: Replay | None = None
        self.attention = saga.attention
        """Why a person should look at the saga."""
        self._is_mended = False
        """Whether that is over, and not yet written."""
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
        self._zero = now - timedelta(seconds=self.clock.monotonic())
        facts = [fact for entry in entries for fact in entry.facts]
        self.had = {(fact.channel, fact.key): fact.signal for fact in facts if isinstance(fact, Had)}
        noted = {fact.mark.path: fact for fact in facts if isinstance(fact, Noted)}
        self._replay = replay = Replay(self._code, noted, Context())
        self._past = past = Past.of(entries, now, self.clock.monotonic())
        self.open = OpenOperations(self.clock, past)
        if self.saga.deadline_at is not None and past.failure is None and not past.is_overdue:
            self.deadline.set(self.saga.deadline_at - now)
        self.failure, self.undoing = past.failure, Undoing(past.undone, past.undo_attempts, past.undo_rows)
        turn = follow(replay, facts, self._outcome_of)
        if self.failure is not None:
            return self._to_undo(turn)
        write = self.plan(turn)
        rests = write.standing is not None and write.standing.status is Status.WAITING
        if write.rests or (rests and self.deadline.is_past):  # what has come meanwhile is seen before it rests again
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
        opened = self._close(path)
        self.undoing.did(opened.operation, value)
        fact = Ended(opened.operation.mark, text)
        return self.write([fact], None) if self.is_stopped else self.plan(self.running.give(path, Value(value)), fact)

    def failed(self, path: str, failure: Failure) -> Write:
        """Tell the code that an operation has failed for good, and run it on; gives what is to be written."""
        opened = self._close(path)
        if failure.unknown:
            self.undoing.may_have_done(opened.operation, self.clock.monotonic())
        fact, told = Failed(opened.operation.mark, failure), error_of(failure, self.definition.options.errors)
        return self.write([fact], None) if self.is_stopped else self.plan(self.running.give(path, Error(told)), fact)

    def resting(self) -> Standing | None:
        """Say when a saga is due of which all that is open waits for a time; None: there is something to do now."""
        first = self.open.first_due()
        if first is None:
            return None
        after = None if first == inf else timedelta(seconds=max(first - self.clock.monotonic(), 0.0))
        due = self.deadline.or_sooner(after)
        return Standing(Status.WAITING, due, is_owned=False, attention=self.attention, is_news=False)

    def _close(self, path: str) -> Open:
        """Let go of an operation that has come to its end; what was told of it is over."""
        opened = self.open.pop(path)
        if opened.is_flagged and not self.open.has_flagged:
            self.attention, self._is_mended = None, True
        return opened

    def stuck(self, why: str) -> Write:
        """Give what is to be written where this code cannot go on: another text of it may."""
        return Write((), self._stuck(why))

    @property
    def unwritten(self) -> Write:
        """What the code was told, and has sent, that is to be written with whatever comes next."""
        return Write(tuple(self.pending.facts), None, tuple(self.pending.emits))

    @property
    def is_stopped(self) -> bool:
        """Whether its code does not go on any more, because the deadline has passed before its pivot."""
        return self.deadline.is_past and not self.is_past_pivot

    @property
    def is_past_pivot(self) -> bool:
        """Whether the saga only goes forward from here on."""
        return any(mark.kind == Kind.PIVOT for mark in self.running.story)

    def may_restart(self) -> bool:
        """Whether nothing would be forgotten that may have to be undone."""
        return self.is_past_pivot or self.undoing.next() is None

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
        replay.may_restart = self.may_restart
        context = SagaContext(replay, self.instance, saga.version, options, self._now, self.definition.among)
        return context.whole(self.definition.code(context, arguments))

    def _now(self) -> datetime:
        """Give the database's time, by how much has passed here since it was told."""
        return self._zero + timedelta(seconds=self.clock.monotonic())

    def _outcome_of(self, operation: Operation[Any], fact: Ended | Failed) -> Outcome:
        path = operation.mark.path
        if isinstance(fact, Failed):
            if fact.failure.unknown:
                self.undoing.may_have_done(operation, self._past.begun.get(path, self.clock.monotonic()))
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
            added += self.open.begin(operation)
        standing = self.resting() if turn.end is None else self._at_end(turn.end, added)
        if standing is not None and standing.diverged:
            # What the code was told in this turn has had no consequence, and may be told anew.
            return self.write(facts, standing)
        if standing is None and not self.open.has_flagged and (self.attention is not None or self._is_mended):
            standing = Standing(Status.RUNNING)
        if self.saga.diverged is not None and (facts or (standing is not None and standing.is_end)):
            standing = replace(standing or Standing(Status.RUNNING), diverged="")
        if standing is not None:
            self.attention, self._is_mended = standing.attention, False
        self.pending.emits += turn.emits
        return self.write([*facts, *added], standing)

    def write(self, facts: Sequence[Fact], standing: Standing | None) -> Write:
        """Plan a write of what is pending, and of these facts behind it."""
        pending, self.pending = self.pending, Pending()
        return self.concluded(
            Write(
                [*pending.facts, *facts],
                standing,
                pending.emits,
                unwaits=pending.unwaits,
                rests=self.open.are_outside and standing is not None and standing.status is Status.WAITING,
                beside=Beside(cancels=pending.cancels, leaves=pending.leaves),
            )
        )

    def concluded(self, write: Write) -> Write:
        """Add what goes with the end of the saga, or of its run, where a write is that."""
        standing = write.standing
        if standing is None or not (standing.is_end or standing.restart is not None):
            return write
        works = [each.work for each in self.running.drawn.values()]
        write = replace(write, waits_no_more=any(isinstance(work, Outside) for work in works))
        if not standing.is_end:
            return write
        locked = self.saga.run > 1 or any(isinstance(work, Lock) for work in works)
        return replace(write, beside=replace(write.beside, parent=self.saga.parent, frees=locked))

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
        if isinstance(end.error, Restarting):
            return self._restarts(end.error, added)
        failure = failure_of(end.error, self.definition.options.errors)
        if self.is_past_pivot or not undoes(end.error, self.definition.options.errors):
            return self._stuck(failure.text)
        self.failure = failure
        added.append(Finished(failure=failure))
        if self.undoing.next() is None:
            return self.compensated()
        return Standing(Status.COMPENSATING, error=line_of(failure))

    def _restarts(self, wish: Restarting, added: list[Fact]) -> Standing:
        if not self.may_restart():
            return self._stuck(UNDONE_FIRST)
        try:
            args, _ = self.definition.arguments.write(wish.arguments)
        except SagaValueRefused as error:
            return self._stuck(error.message)
        added.append(Restarted(args))
        restart = Restart(self.saga.run + 1, args, self.definition.options.deadline, dict(self.had))
        return Standing(Status.RUNNING, restart=restart)

    def _stuck(self, why: str) -> Standing:
        status = Status.RUNNING if self.failure is None else Status.COMPENSATING
        diverged = stopped_with(self.saga.diverged, self.definition.fingerprint)
        return Standing(status, NOW, is_owned=False, attention=why, diverged=diverged)

    def compensated(self) -> Standing:
        """Say where a saga stands of which all is undone that can be."""
        assert self.failure is not None
        return Standing(Status.COMPENSATED, None, is_owned=False, error=line_of(self.failure))


def why(operation: Operation[Any], decision: Again) -> str:
    """Say why a person should look at what fails again and again."""
    return f"{operation.mark.name} fails: {decision.failure.text}"
