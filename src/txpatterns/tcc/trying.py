"""Asking local participants to try: their code in a transaction with the note that they have reserved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.errors import IdReused, TccCancelled, TccError
from txpatterns.execution import Came, Run
from txpatterns.execution.execution import Ask
from txpatterns.tcc.claims import Beginning, Branch, Held
from txpatterns.tcc.participants import Participant
from txpatterns.tcc.parts import Part, Tools, origin_of
from txpatterns.tcc.schema import Operation, State
from txpatterns.tcc.transactions import Asked


def cancelled(id: str) -> TccCancelled:
    """Give the error of whoever comes too late to a transaction."""
    return TccCancelled(f"{id} is cancelled: its time was over, or somebody has cancelled it.")


class Joining:
    """Adding one branch to a transaction, which the first of them begins. It may be repeated."""

    def __init__(self, tools: Tools, beginning: Beginning, held: Held | None, branch: Branch) -> None:
        self._store = tools.store
        self._beginning = beginning
        self._branch = branch
        self._known = held
        """The transaction, where another branch has begun it."""
        self._runs = 0
        self.held = held
        """The transaction as this branch has found it, or begun it."""
        self.stored: Branch | None = None
        """The branch, where an attempt before this one has written it, and the answer was lost."""
        self.refusal: TccError | IdReused | None = None
        """Why it was not added."""

    @property
    def id(self) -> str:
        """The transaction's."""
        return self._beginning.id

    def add(self, connection: Connection) -> bool:
        """Add it; says whether that was done now."""
        self._runs += 1
        if self._known is None:
            self.held = self._store.begin(connection, self._beginning, self._branch)
            return self.held is not None or self._is_ours(connection)
        if self._runs > 1 and self._is_stored(connection):
            return False
        if self._store.join(connection, self._known, self._branch):
            return True
        self.refusal = cancelled(self._beginning.id)
        return False

    def is_there(self, connection: Connection) -> bool:
        """Whether it is written."""
        return self._store.branch(connection, self._beginning.xid, self._branch.branch) is not None

    def _is_stored(self, connection: Connection) -> bool:
        self.stored = self._store.branch(connection, self._beginning.xid, self._branch.branch)
        return self.stored is not None

    def _is_ours(self, connection: Connection) -> bool:
        """See whose the transaction is that there is already; never adds anything."""
        found = self._store.find(connection, self._beginning.app, self._beginning.id)
        if found is not None and found.owner == self._beginning.token and self._is_stored(connection):
            self.held = found
        elif self._runs > 1:
            self.refusal = cancelled(self._beginning.id)
        else:
            self.refusal = IdReused(
                f"There is a transaction {self._beginning.id} already.",
                fix="Give each transaction an id of its own; app.tcc.status(id) says what became of one.",
            )
        return False


class LocalTry:
    """One try of a local participant: what it writes and its note are one transaction."""

    def __init__(
        self,
        tools: Tools,
        participant: Participant[..., Any],
        arguments: tuple[Any, ...],
        joining: Joining,
        branch: str,
    ) -> None:
        self._tools = tools
        self._participant = participant
        self._arguments = arguments
        self._branch = branch
        self._part: Part | None = None
        self._answer: object = None
        self.result: str | None = None
        """What it has returned, as it is kept; None: nothing."""
        self.joining = joining
        self.may_stand = False
        """Whether some of its work may be committed although it has failed: its code has ended the transaction by
        itself, or the connection was lost at the commit."""

    async def run(self, ask: Ask) -> object:
        """Let it try; gives what it returns, as it is kept.

        Raises what it raises; TccCancelled or IdReused where it was not asked.
        """

        async def asked(question: Callable[[Connection], bool]) -> bool:
            self.may_stand = True
            return await ask(question)

        result = await self._tools.execution.settle(self._describe, asked)
        if result.came is Came.DONE:
            if self._part is not None:
                self._part.tell_done()
            return self._answer
        joining = self.joining
        if joining.stored is not None:
            self.result = joining.stored.result
            return self._participant.result.read(self.result or "null")
        if joining.refusal is not None:
            raise joining.refusal
        assert result.error is not None, f"{result.came} comes with an error"
        if self._part is not None:
            self._part.tell_raised(result.error)
        raise result.error

    def _describe(self) -> Run:
        return Run(
            origin_of(self._participant, Operation.TRY, self.joining.id),
            self._call_in_loop if self._participant.is_async else self._call_in_thread,
            self._participant.is_async,
            opening=self.joining.add,
            stands=self.joining.is_there,
            around=nullcontext,
            closing=self._closing,
        )

    def _made(self) -> Part:
        held = self.joining.held
        assert held is not None, "the opening has begun it"
        asked = Asked(held.instance, self._branch, Operation.TRY, 1)
        self._part = Part(self._tools, self._participant, asked, self._arguments)
        return self._part

    async def _call_in_loop(self, session: Any) -> Any:
        return await self._made().in_loop(session)

    def _call_in_thread(self, session: Any) -> Any:
        return self._made().in_thread(session)

    def _closing(self, connection: Connection, value: object) -> None:
        text, self._answer = self._participant.result.write(value)
        held = self.joining.held
        assert held is not None, "the opening has begun it"
        self.result = None if text == "null" else text
        if self.result is not None:
            self._tools.store.answered(connection, held.instance.xid, self._branch, State.TRIED, self.result)
