"""Bringing a transaction to its end: its decision, and all its branches confirmed or all cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.causes import summary_of
from txpatterns.errors import LeaseLost, Retry, TccDefinitionError
from txpatterns.execution import Came, Run
from txpatterns.execution.execution import Ask
from txpatterns.tcc.claims import Branch, Held, lost
from txpatterns.tcc.moments import TccEnded, TccNeedsAttention
from txpatterns.tcc.participants import Mode
from txpatterns.tcc.parts import Part, Tools
from txpatterns.tcc.schema import Operation, State, Status
from txpatterns.tcc.store import Failed, Marked, Move
from txpatterns.tcc.transactions import Asked

T = TypeVar("T")
Pause = Callable[[BaseException | None], Awaitable[None]]
"""Waits while the database is away; raises where that is not to be waited for."""

_ENDS = {Status.CONFIRMING: Status.CONFIRMED, Status.CANCELLING: Status.CANCELLED}
_STATES = {Operation.CONFIRM: State.CONFIRMED, Operation.CANCEL: State.CANCELLED}
_LONGEST_TEXT = 2000
_BY_ITSELF = "a participant has ended its transaction by itself, and perhaps done half of its work"


@dataclass(frozen=True, slots=True)
class Means:
    """How whoever concludes reaches the database."""

    ask: Ask
    pause: Pause
    hold: timedelta
    """How long others leave it alone after each write."""


class Conclusion:
    """Brings one transaction to its end, or as far as it goes now: what fails is left for a later time."""

    def __init__(self, tools: Tools, held: Held, branches: Sequence[Branch], to: Status, means: Means) -> None:
        self.held = held
        """The transaction, as it stands by what was committed."""
        self._tools = tools
        self._to = to
        self._means = means
        self._failures: list[tuple[Branch, BaseException]] = []
        self._note: str | None = None
        self._at = 0
        self._branches = {each.branch: each for each in branches}
        self._open = [each.branch for each in branches if each.asked(to) is not None]
        """The branches of which something is left to be done, in the order in which that is done."""
        if to == Status.CANCELLING:
            self._open.reverse()

    async def run(self) -> Status:
        """Decide it, if it is not decided, and do what follows; gives where it stands then.

        Raises:
            LeaseLost: somebody else has decided it, or goes on with it.
        """
        parts = [part for branch in list(self._open) if (part := self._made(self._branches[branch])) is not None]
        local = [part for part in parts if part.participant.mode == Mode.LOCAL]
        groups = [[part for part in local if part.participant.is_async is kind] for kind in (True, False)]
        if self.held.status == Status.TRYING and not (self._to == Status.CONFIRMING and local):
            await self._decide()
        for group in filter(None, groups):
            await self._together(group)
        for part in parts:
            if part.participant.mode != Mode.LOCAL:
                await self._outside(part)
        await self._leave()
        return self.held.status

    def _made(self, branch: Branch) -> Part | None:
        """Give the request to a branch's participant; None where that cannot be made here: it has failed."""
        operation = branch.asked(self._to)
        assert operation is not None, "only what is open is asked"
        participant = self._tools.participants.find(branch.participant)
        try:
            if participant is None:
                raise TccDefinitionError(f"There is no participant {branch.participant} in this process.")
            arguments: Any = participant.arguments.read(branch.args)
            result = None if branch.result is None else participant.result.read(branch.result)
        except (ValueError, TccDefinitionError) as error:
            self._failures.append((branch, error))
            return None
        asked = Asked(self.held.instance, branch.branch, operation, branch.attempts + 1, result)
        return Part(self._tools, participant, asked, arguments)

    async def _decide(self) -> None:
        """Write the decision by itself."""
        move = self._move(self._to)
        await self._transact(partial(self._tools.store.move, held=self.held, move=move))
        self.held = replace(self.held, status=self._to)

    async def _together(self, group: list[Part]) -> None:
        """Ask several local participants in one transaction, and the decision with it; where that fails, one by one."""
        while True:
            result = await self._tools.execution.settle(partial(self._describe, group), self._means.ask)
            if result.came is not Came.OUTAGE:
                break
            await self._means.pause(result.error)
        if result.came is Came.DONE:
            self._done(group)
            return
        if result.came is Came.REFUSED:  # an attempt before has done it, and its answer was lost
            await self._read_again(group)
            return
        error = result.error
        if error is None or isinstance(error, LeaseLost):
            raise lost(self.held)
        if result.ended or result.came is Came.ENDED:
            await self._half_done(group, error)
            return
        if self.held.status == Status.TRYING:
            await self._decide()
        if len(group) > 1:
            for part in group:
                await self._together([part])
        else:
            self._failed(group[0], error)

    def _describe(self, group: list[Part]) -> Run:
        is_async = group[0].participant.is_async
        call: Callable[..., Any] = self._call_in_loop if is_async else self._call_in_thread
        return Run(
            group[0].origin,
            partial(call, group),
            is_async,
            opening=partial(self._opening, group),
            stands=partial(self._stands, group),
            around=nullcontext,
        )

    def _opening(self, group: list[Part], connection: Connection) -> bool:
        self._at = 0
        return self._mark(group, connection, moves=True)

    def _stands(self, group: list[Part], connection: Connection) -> bool:
        branch = self._tools.store.branch(connection, self.held.instance.xid, group[0].asked.branch)
        return branch is not None and branch.state == _STATES[group[0].asked.operation]

    async def _call_in_loop(self, group: list[Part], session: AsyncSession) -> list[Any]:
        answers = []
        for self._at, part in enumerate(group):
            if not self._at or await session.run_sync(lambda plain: self._mark(group, plain.connection())):
                answers.append(await part.in_loop(session))
        return answers

    def _call_in_thread(self, group: list[Part], session: Session) -> list[Any]:
        answers = []
        for self._at, part in enumerate(group):
            if not self._at or self._mark(group, session.connection()):
                answers.append(part.in_thread(session))
        return answers

    def _mark(self, group: list[Part], connection: Connection, *, moves: bool = False) -> bool:
        """Note a branch as done right before its participant does it, the last one together with the end.

        Says whether that was not noted before.

        Each by itself, so that what its code commits on its own account leaves no other branch noted and not done.
        """
        asked, store = group[self._at].asked, self._tools.store
        marked = Marked(asked.branch, _STATES[asked.operation])
        ends = len(self._open) == self._at + 1 and not self._failures
        held = self.held if moves else replace(self.held, status=self._to)
        if moves or ends:
            return store.move(connection, held, self._move(_ENDS[self._to] if ends else self._to), marked)
        return store.mark(connection, held, marked)

    async def _outside(self, part: Part) -> None:
        """Ask a participant outside, and note that it is done."""
        try:
            await part.outside()
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is asked again
            self._failed(part, error)
            return
        asked = part.asked
        ends = self._open == [asked.branch] and not self._failures
        move = self._move(_ENDS[self._to] if ends else self._to)
        marked = Marked(asked.branch, _STATES[asked.operation])
        await self._transact(partial(self._tools.store.move, held=self.held, move=move, marked=marked))
        self._done([part])

    def _done(self, group: list[Part]) -> None:
        for part in group:
            self._open.remove(part.asked.branch)
            part.tell_done()
        is_over = not self._open and not self._failures
        self.held = replace(self.held, status=_ENDS[self._to] if is_over else self._to)

    def _failed(self, part: Part, error: BaseException) -> None:
        part.tell_raised(error)
        self._failures.append((self._branches[part.asked.branch], error))

    async def _half_done(self, group: list[Part], error: BaseException) -> None:
        """Go on behind a participant that has ended its transaction by itself: to repeat it could do it twice."""
        group[self._at].tell_raised(error)
        self._note = f"{_BY_ITSELF}: {summary_of(error)}"
        await self._read_again(group)

    async def _read_again(self, group: list[Part]) -> None:
        """Go on from what is committed, where that is not what was to be."""
        store, instance = self._tools.store, self.held.instance
        found = await self._transact(partial(store.find, app=instance.app, id=instance.id))
        if found is None or found.epoch != self.held.epoch:
            raise lost(self.held)
        self.held = found
        for branch in await self._transact(partial(store.branches, xid=instance.xid)):
            self._branches[branch.branch] = branch
        self._open = [each for each in self._open if self._branches[each].asked(self._to) is not None]
        for part in group:
            if part.asked.branch in self._open:
                await self._together([part])

    def _move(self, to: Status) -> Move:
        ends = to in _ENDS.values()
        attention = self._note if ends else self._note or self.held.attention
        return Move(to, self.held.owner, self._means.hold, attention)

    async def _leave(self) -> None:
        """End it, or let it be gone on with when what has failed is to be tried again."""
        held, attention = self.held, self._note
        if self._failures:
            failed, due, why = self._planned()
            attention = why or attention or held.attention
            work = partial(self._rest, failed=failed, move=Move(self._to, None, due, attention))
            await self._transact(work)
        elif held.status not in _ENDS.values():
            await self._transact(partial(self._tools.store.move, held=held, move=self._move(_ENDS[self._to])))
            self.held = replace(held, status=_ENDS[self._to])
        elif attention is not None:
            await self._transact(partial(self._tools.store.flag, number=held.number, attention=attention))
        if attention is not None and held.attention is None:
            who = self._failures[0][0].participant if self._failures else ""
            self._tools.hooks.tell(TccNeedsAttention(held.instance.id, who, attention))
        if self.held.status in _ENDS.values():
            self._tools.hooks.tell(TccEnded(held.instance.id, self.held.status))

    def _rest(self, connection: Connection, failed: Sequence[Failed], move: Move) -> None:
        self._tools.store.move(connection, self.held, move)
        self._tools.store.failed(connection, self.held, failed)

    def _planned(self) -> tuple[list[Failed], timedelta, str | None]:
        """Say what has failed, when it is tried again, and what a person is told, if one is to be told."""
        ladder, random = self._tools.settings.ladder, self._tools.random
        failed, waits, why = list[Failed](), list[timedelta](), None
        for branch, error in self._failures:
            attempts = branch.attempts + 1
            summary = summary_of(error)[:_LONGEST_TEXT]
            failed.append(Failed(branch.branch, attempts, summary))
            wait = ladder.delay_for_ever(attempts, random)
            if isinstance(error, Retry) and error.after is not None:
                wait = max(error.after, timedelta(0))
            waits.append(wait)
            if ladder.delay(attempts, random) is None:
                why = f"{branch.participant} has failed {attempts} times to {branch.asked(self._to)}: {summary}"
        return failed, min(waits), why

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        """Do something in a transaction of the library's own, where its answer may be lost.

        Raises:
            LeaseLost: somebody else has decided it, or goes on with it.
        """
        while True:
            try:
                return await self._tools.database.transact(work)
            except LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001 - what is not to be waited for is raised again
                await self._means.pause(error)
