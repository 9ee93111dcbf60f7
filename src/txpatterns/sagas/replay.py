"""Running a saga's code by hand, and running it again to the same place from its journal.

The code is an ordinary coroutine function, but no task: it is resumed with what it waits for, and whatever it yields
that is no operation of ours is refused, at once and by name. Otherwise it would wait for something that no journal
holds, and could not be resumed after the end of its process.

Three rules make a rebuilt run the same as the first. An operation's name is a path, its branch and its number there,
so that branches do not depend on each other's progress. Results are given in the order of the journal. And what is
told without waiting, a time for example, is told again as it is noted there.

Nothing here knows a clock, a loop, a thread or a database.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from txpatterns.errors import SagaDiverged
from txpatterns.messages import Event
from txpatterns.sagas.facts import Mark, Noted
from txpatterns.sagas.gathering import Gathering, Racing
from txpatterns.sagas.operations import First, Gather, Kind, Operation, Suspended, Wait
from txpatterns.sagas.strands import BrokenRule, Error, Outcome, Strand, Then, Value

_REFUSED_AT_MOST = 100
Asked = TypeVar("Asked", bound=Operation[Any])


@dataclass(frozen=True, slots=True)
class Broken:
    """The code has done what cannot be done again from a journal; said in words, with the line."""

    text: str


@dataclass(slots=True)
class Turn:
    """What came of running the code until each of its branches waits."""

    operations: list[Operation[Any]] = field(default_factory=list)
    """What it waits for since this turn."""
    notes: list[Noted] = field(default_factory=list)
    """What it was told or asked for without waiting, and that was not noted before."""
    emits: list[tuple[str, Event]] = field(default_factory=list)
    """The events among these, each with its path."""
    dropped: list[str] = field(default_factory=list)
    """The paths of what it waits for no longer, because something else came first."""
    end: Outcome | Broken | None = None


class Replay:
    """One run of a saga's code, from its beginning to where it waits or ends. Not for several threads at a time.

    ``code`` gives the coroutine anew. ``noted`` is what the journal has of that which is told without waiting.
    """

    def __init__(
        self, code: Callable[[Replay], Coroutine[Any, Any, object]], noted: Mapping[str, Noted], context: Context
    ) -> None:
        self._code = code
        self.noted = noted
        """What is noted of that which is told without waiting, by path."""
        self._context = context
        self._strand: Strand | None = None
        self._turn = Turn()
        self._strands: list[Strand] = []
        self._then: dict[str, Then] = {}
        self._unawaited: dict[str, Operation[Any]] = {}
        self._diverged: SagaDiverged | None = None
        self.waiting: dict[str, Operation[Any]] = {}
        """What the code waits for now, by path."""
        self.drawn: dict[str, Operation[Any]] = {}
        """All that it has asked for, by path."""
        self.story: list[Mark] = []
        """All that it has drawn, in order: what two runs are compared by."""
        self.may_restart: Callable[[], bool] = lambda: True
        """Whether the code may begin anew where it is now."""
        self._is_closing = False
        self._refusals = 0
        self.is_following = False
        """Whether it does again what is in the journal."""

    # What the saga's context calls, while the code runs.

    def draw(self, kind: Kind, name: str = "", digest: str = "") -> Mark:
        """Take the next place in the branch that runs.

        Raises:
            Suspended: the code is being put away.
            RuntimeError: it was called by something else than the saga's code.
        """
        if self._is_closing:
            self.check_open()
            return Mark("", kind.value, name, digest)
        if self._strand is None:
            raise RuntimeError("A saga's context was used outside of its code, by a task or a thread of its own.")
        mark = Mark(self._strand.draw(), kind.value, name, digest)
        self.story.append(mark)
        return mark

    def check_open(self) -> None:
        """Raise Suspended where the code is being put away; not for ever, so that what goes on can be stopped."""
        if self._is_closing and self._refusals < _REFUSED_AT_MOST:
            self._refusals += 1
            raise Suspended

    def operation(self, kind: Kind, work: object, *, name: str = "", digest: str = "") -> Operation[Any]:
        """Make an operation that the code is to await."""
        return self._keep(Operation(self, self.draw(kind, name, digest), work))

    def wait(self, kind: Kind, work: object, *, name: str = "", digest: str = "") -> Wait[Any]:
        """Make one that does nothing but wait."""
        return self._keep(Wait(self, self.draw(kind, name, digest), work))

    def _keep(self, operation: Asked) -> Asked:
        self._unawaited[operation.mark.path] = self.drawn[operation.mark.path] = operation
        return operation

    def emit(self, event: Event, *, name: str, digest: str) -> None:
        """Let an event be sent, unless it is noted that it was."""
        known = len(self._turn.notes)
        self.note(Kind.EMIT, lambda: "null", name=name, digest=digest)
        if len(self._turn.notes) > known:
            self._turn.emits.append((self.story[-1].path, event))

    def note(self, kind: Kind, value: Callable[[], str], *, name: str = "", digest: str = "") -> str:
        """Tell the code something without waiting: what is noted, or else a new value, which is noted.

        Raises:
            Suspended: something else is noted there; the turn ends with that.
        """
        mark = self.draw(kind, name, digest)
        noted = self.noted.get(mark.path)
        if noted is None:
            noted = Noted(mark, value())
            self._turn.notes.append(noted)
        elif noted.mark != mark:
            self._diverged = SagaDiverged(differs(noted.mark, mark))
            raise Suspended
        return noted.value

    # What the engine calls, outside of any task.

    def begin(self) -> Turn:
        """Run the code from its beginning until it waits or ends."""
        return self._run(self._begin)

    def give(self, path: str, outcome: Outcome) -> Turn:
        """Tell the code what became of an operation that it waits for, and run it on."""
        then = self._then.pop(path)
        del self.waiting[path]
        return self._run(then, outcome)

    def close(self) -> list[str]:
        """Put the code away: each ``finally`` of it runs, and cannot do anything. Gives what did not end or failed."""
        self._is_closing = True
        trouble: list[str] = []
        for strand in reversed(self._strands):
            trouble += self._context.run(strand.close)
        for operation in list(self._unawaited.values()):
            if isinstance(operation.work, Gather):
                self.forget(operation.work.parts)
        self._strands.clear()
        self._then.clear()
        self._unawaited.clear()
        return trouble

    def drop(self, operation: Operation[Any]) -> None:
        """Wait no longer for an operation."""
        self.waiting.pop(operation.mark.path, None)
        self._then.pop(operation.mark.path, None)
        self._turn.dropped.append(operation.mark.path)

    def forget(self, parts: Iterable[Awaitable[Any]]) -> None:
        """Let go of parts of a gathering that are not begun any more."""
        for part in parts:
            if isinstance(part, Operation):
                self._unawaited.pop(part.mark.path, None)
            elif inspect.iscoroutine(part):
                part.close()

    def _run(self, work: Callable[..., None], *arguments: object) -> Turn:
        self._turn = turn = Turn()
        try:
            self._context.run(work, *arguments)
        except BrokenRule as broken:
            turn.end = Broken(str(broken))
        return turn

    def _begin(self) -> None:
        coroutine = self._code(self)
        if not inspect.iscoroutine(coroutine):
            raise BrokenRule(f"A saga is an async def function; this one gave {type(coroutine).__name__}.")
        strand = Strand(coroutine, "", self._ended)
        self._strands.append(strand)
        self._drive(strand, Value(None))

    def _ended(self, outcome: Outcome) -> None:
        if self._unawaited and isinstance(outcome, Value):
            left = listed(self._unawaited.values())
            raise BrokenRule(f"The code ended without awaiting {left}.")
        self._turn.end = outcome

    def _drive(self, strand: Strand, given: Outcome) -> None:
        """Resume a strand until it waits or ends."""
        outcome: Outcome | None = given
        while outcome is not None:
            before, self._strand = self._strand, strand
            try:
                yielded = strand.resume(outcome)
            except StopIteration as stop:
                end: Outcome = Value(stop.value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this strand
                end = Error(error)
            else:
                self._refuse_diverged()
                outcome = self._wait(self._checked(yielded, strand), partial(self._drive, strand))
                continue
            finally:
                self._strand = before
            self._refuse_diverged()
            self._strands.remove(strand)
            strand.then(end)
            return

    def _refuse_diverged(self) -> None:
        if self._diverged is not None:
            raise self._diverged

    def _wait(self, operation: Operation[Any], then: Then) -> Outcome | None:
        """Let an operation be waited for. Gives its outcome where it has one already."""
        if operation.is_awaited:
            raise BrokenRule(f"{operation!r} was awaited twice: keep its result instead.")
        operation.is_awaited = True
        del self._unawaited[operation.mark.path]
        if isinstance(operation.work, Gather):
            return Gathering(self, operation.mark.path, operation.work, then).begin()
        if isinstance(operation.work, First):
            Racing(self, operation.work, then).begin()
            return None
        self.waiting[operation.mark.path] = operation
        self._then[operation.mark.path] = then
        self._turn.operations.append(operation)
        return None

    def _checked(self, yielded: object, strand: Strand) -> Operation[Any]:
        if isinstance(yielded, Operation) and yielded.owner is self:
            return yielded
        what = "an operation of another saga" if isinstance(yielded, Operation) else strand.awaited(yielded)
        raise BrokenRule(
            f"The code awaited {what} at {strand.place()}: that is in no journal, so it could not be resumed "
            "after a restart. Do it in a step or a call, and wait with saga.sleep, saga.gather and the like."
        )

    def part(self, awaitable: Awaitable[Any], prefix: str, then: Then) -> Outcome | None:
        """Begin one part of a gathering: an operation is waited for, a coroutine becomes a strand."""
        if isinstance(awaitable, Operation):
            if awaitable.owner is not self:
                raise BrokenRule("gather was given an operation of another saga.")
            return self._wait(awaitable, then)
        if not inspect.iscoroutine(awaitable):
            raise BrokenRule(
                f"gather takes operations and coroutines of the saga's code, not {type(awaitable).__name__}."
            )
        if inspect.getcoroutinestate(awaitable) != inspect.CORO_CREATED:
            raise BrokenRule(
                f"gather was given {awaitable.__qualname__}, which has begun already: call it once for each."
            )
        strand = Strand(awaitable, f"{prefix}.", then)
        self._strands.append(strand)
        self._drive(strand, Value(None))
        return None


def listed(operations: Iterable[Operation[Any]]) -> str:
    """Name operations, for an error."""
    return ", ".join(map(repr, operations)) or "nothing"


def differs(journal: Mark, code: Mark) -> str:
    """Say how what the code asks for is not what the journal has."""
    if journal[:3] == code[:3]:
        return f"At {journal.path} the journal has {journal} with other arguments than the code gives it now."
    return f"At {journal.path} the journal has {journal}; the code asks for {code} at {code.path}."
