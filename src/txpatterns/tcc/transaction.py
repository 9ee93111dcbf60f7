"""A transaction as whoever runs it sees it: ``async with app.tcc.transaction(...) as tcc``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy.engine import Connection

from txpatterns.database.dialects import may_pass
from txpatterns.database.finishing import finish
from txpatterns.errors import LeaseLost, Reject, TccDefinitionError, TccOver, TccUndecided
from txpatterns.runtime.outages import Outages
from txpatterns.tcc.claims import Beginning, Branch, Held
from txpatterns.tcc.conclusion import Conclusion, Means
from txpatterns.tcc.participants import Mode, Participant, check_whole
from txpatterns.tcc.parts import Part, Tools
from txpatterns.tcc.schema import TCC, Operation, State, Status
from txpatterns.tcc.transactions import Asked
from txpatterns.tcc.trying import Joining, LocalTry, cancelled
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = timedelta(seconds=10)
"""How long whoever runs a transaction waits for a database that is away."""


class TccTransaction:
    """One transaction. Leaving its block confirms all that was tried; an error that leaves it cancels all.

    When leaving has returned, the transaction is confirmed: what could not be confirmed at once is repeated in the
    background until it is.
    """

    def __init__(self, tools: Tools, beginning: Beginning, wake: Callable[[], object]) -> None:
        self._tools = tools
        self._beginning = beginning
        self._wake = wake
        self._held: Held | None = None
        self._may_have_begun = False
        self._branches: dict[str, Branch] = {}
        self._number = 0
        self._under_way = 0
        self._all_answered = asyncio.Condition()
        self._begins = asyncio.Lock()
        self._is_open = False
        self._answers: list[BaseException] = []
        """Errors of tries of which nothing stands, or of which it is noted that they are to be cancelled."""
        self._spoilt: BaseException | None = None
        """An error of another kind: who goes on behind it cannot be confirmed."""
        self._deadline = float("inf")
        self.id = beginning.id
        """The id that it was begun with."""
        self.status = Status.TRYING
        """Where it stands, as far as this process knows."""

    async def try_(self, participant: Participant[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask a participant to reserve; gives what it returns.

        When this has returned, the reservation is kept, and will be confirmed or cancelled, whatever dies. When it
        raises, the participant's own transaction is rolled back; what was asked outside is cancelled. You may go on
        without it, and confirm the rest; but not when it was cancelled, or lost its connection at the commit, so that
        nobody knows what stands. Several may run at once.

        Raises:
            TccCancelled: the transaction took longer than its timeout.
            TccOver: the block is left.
            TccValueRefused: an argument, or what is returned, would not come back from JSON as it is.
            IdReused: there is a transaction with this id.
        """
        if not self._is_open:
            raise TccOver(f"{participant.name} was asked to try when the block of {self.id} was left.")
        check_whole(participant)
        if self._tools.participants.find(participant.name) is not participant:
            raise TccDefinitionError(f"The participant {participant.name} is none of this App.")
        if self._tools.database.clock.monotonic() > self._deadline:
            raise cancelled(self.id)
        arguments = participant.bound(args, kwargs)
        text, _ = participant.arguments.write(arguments)
        self._number += 1
        state = State.TRIED if participant.mode == Mode.LOCAL else State.TRYING
        branch = Branch(str(self._number), participant.name, text, state)
        self._under_way += 1
        try:
            answer: Any = await self._try(participant, arguments, branch)
            return answer  # type: ignore[no-any-return]
        except BaseException as error:
            if not any(error is each for each in self._answers):  # it is not known what stands of it
                self._spoilt = error
            raise
        finally:
            self._under_way -= 1
            async with self._all_answered:
                self._all_answered.notify_all()

    async def _try(self, participant: Participant[..., Any], arguments: tuple[Any, ...], branch: Branch) -> object:
        if participant.mode != Mode.LOCAL:
            return await self._try_outside(participant, arguments, branch)
        if self._held is None:
            async with self._begins:  # the first to try begins it, and the others wait for that
                if self._held is None:
                    return await self._try_here(participant, arguments, branch)
        return await self._try_here(participant, arguments, branch)

    async def _try_here(self, participant: Participant[..., Any], arguments: tuple[Any, ...], branch: Branch) -> object:
        attempt = LocalTry(self._tools, participant, arguments, self._joining(branch), branch.branch)
        self._may_have_begun = True
        try:
            answer = await attempt.run(self._ask)
        except Exception as error:
            if not attempt.may_stand:
                self._answers.append(error)
            raise
        self._joined(attempt.joining, replace(branch, result=attempt.result))
        return answer

    async def _try_outside(
        self, participant: Participant[..., Any], arguments: tuple[Any, ...], branch: Branch
    ) -> object:
        self._may_have_begun = True
        async with self._begins:
            await self._join(self._joining(branch), branch)
        held = self._held
        assert held is not None, "it has begun with this branch, or before"
        part = Part(self._tools, participant, Asked(held.instance, branch.branch, Operation.TRY, 1), arguments)
        try:
            value = await part.outside()
            text, answer = participant.result.write(value)
        except Exception as error:
            part.tell_raised(error)
            if isinstance(error, Reject):
                await self._answered(branch, State.REFUSED, None)
            self._answers.append(error)
            raise
        if not await self._answered(branch, State.TRIED, None if text == "null" else text):
            raise cancelled(self.id)
        part.tell_done()
        return answer

    async def _join(self, joining: Joining, branch: Branch) -> None:
        def add(connection: Connection) -> None:
            if not joining.add(connection) and joining.refusal is not None:
                raise joining.refusal

        await self._tools.database.transact(add)
        self._joined(joining, branch)

    async def _answered(self, branch: Branch, state: State, result: str | None) -> bool:
        """Keep what a participant outside has answered; says whether the transaction still waits for that."""
        held, store = self._held, self._tools.store
        assert held is not None, "it was asked in a transaction"

        def keep(connection: Connection) -> bool:
            if not store.still_tries(connection, held):
                return False
            store.answered(connection, held.instance.xid, branch.branch, state, result)
            return True

        kept = await self._tools.database.transact(keep)
        if kept:
            self._branches[branch.branch] = replace(branch, state=state, result=result)
        return kept

    def _joining(self, branch: Branch) -> Joining:
        return Joining(self._tools, self._beginning, self._held, branch)

    def _joined(self, joining: Joining, branch: Branch) -> None:
        self._held = joining.held
        self._branches[branch.branch] = branch

    async def __aenter__(self) -> Self:
        if self._is_open or self.status != Status.TRYING or self._number:
            raise TccOver(f"The block of {self.id} was entered before.", fix="Ask for a new transaction each time.")
        self._is_open = True
        self._deadline = self._tools.database.clock.monotonic() + self._beginning.timeout.total_seconds()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):
            return  # the event loop is no more; it is cancelled at its timeout
        self._is_open = False
        if error is not None:
            await self._cancel_after(error)
            return
        if self._under_way or self._spoilt is not None:
            early = f"The block of {self.id} was left while participants were being asked; it is cancelled."
            over = TccOver(early if self._spoilt is None else f"{self.id} is cancelled: {error_line(self._spoilt)}")
            await self._cancel_after(over)
            raise over from self._spoilt
        await finish(self._confirm())

    async def _confirm(self) -> None:
        held = self._held
        if held is None:
            self.status = Status.CONFIRMED  # nothing was tried
            return
        conclusion = self._concluding(held, list(self._branches.values()), Status.CONFIRMING)
        try:
            self.status = await conclusion.run()
        except LeaseLost as lost:
            self.status = await self._read_status()
            if self.status not in (Status.CONFIRMING, Status.CONFIRMED):
                raise cancelled(self.id) from lost
        except Exception as error:
            self.status = conclusion.held.status
            if self.status == Status.TRYING:
                raise TccUndecided(f"Whether {self.id} is confirmed is not known: {error_line(error)}") from error
            logger.warning("TCC %s is decided, and confirmed later: %s", self.id, error_line(error))
        self._wake_others()

    async def _cancel_after(self, error: BaseException) -> None:
        """Cancel what was tried. The error that has led to it is what the caller is told, whatever comes of this."""
        async with self._all_answered:
            await self._all_answered.wait_for(lambda: not self._under_way)
        if not self._may_have_begun:
            self.status = Status.CANCELLED
            return
        try:
            await finish(self._cancel())
        except Exception as failed:  # noqa: BLE001 - the first error is what the caller must see
            logger.warning("TCC %s is cancelled at its timeout: now it could not be: %s", self.id, error_line(failed))
            error.add_note(f"TCC {self.id} is cancelled at its timeout: now it could not be.")

    async def _cancel(self) -> None:
        held = await self._ask_for(self._find)
        if held is None:
            self.status = Status.CANCELLED
            return
        branches = await self._ask_for(lambda connection: self._tools.store.branches(connection, held.instance.xid))
        conclusion = self._concluding(held, branches, Status.CANCELLING)
        try:
            self.status = await conclusion.run()
        except LeaseLost:
            self.status = await self._read_status()
        self._wake_others()

    def _find(self, connection: Connection) -> Held | None:
        """Find the transaction if it is this one, and not decided."""
        found = self._tools.store.find(connection, self._beginning.app, self.id)
        return found if found is not None and found.owner == self._beginning.token else None

    async def _read_status(self) -> Status:
        app = self._beginning.app
        found = await self._ask_for(lambda connection: self._tools.store.find(connection, app, self.id))
        return Status.CANCELLED if found is None else found.status

    def _concluding(self, held: Held, branches: list[Branch], to: Status) -> Conclusion:
        means = Means(self._ask, _give_up, self._tools.settings.lease_ttl)
        return Conclusion(self._tools, held, branches, to, means)

    def _wake_others(self) -> None:
        if self.status in (Status.CONFIRMING, Status.CANCELLING):
            self._wake()

    async def _ask(self, question: Callable[[Connection], bool]) -> bool:
        return bool(await self._ask_for(question))

    async def _ask_for(self, question: Callable[[Connection], Any]) -> Any:
        """Ask the database, for some seconds if it is away. Raises TccUndecided where it stays away."""
        database = self._tools.database
        outages = Outages(database.clock, TCC, asyncio.Event())
        try:
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                return await outages.insist(lambda: database.transact(question), while_=may_pass)
        except TimeoutError as error:
            raise TccUndecided from error


async def _give_up(error: BaseException | None) -> None:
    """Wait for nothing: whoever runs a transaction is told that the database is away."""
    raise error if error is not None else TccUndecided
