"""One attempt of a step, or of undoing one: the user's code in its transaction, and behind it the fact."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from txpatterns.correlation import correlated
from txpatterns.database.dialects import has_open_transaction, may_pass
from txpatterns.errors import LeaseLost, SagaDefinitionError, SagaError
from txpatterns.execution import Origin, Result, Run
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.inbox.signatures import written_at
from txpatterns.sagas.facts import Mark
from txpatterns.sagas.moments import StepRuns
from txpatterns.sagas.operations import Step
from txpatterns.sagas.store import Write
from txpatterns.sagas.transactions import StepTransaction, SyncStepTransaction
from txpatterns.sagas.writer import Ahead, SagaWriter

Plan = Callable[[str, object], Awaitable[Write]]
"""Tells the saga's code what an operation came to, as JSON and as a value; gives what is to be written."""


class Attempt:
    """One attempt. It holds the saga's lock from when the saga's code is told of its end until ``release``.

    On SQLite already from its beginning: whoever holds the only place to write must not wait for another writer.
    """

    def __init__(self, writer: SagaWriter, mark: Mark, step: Step, number: int, plan: Plan, *, undoing: bool) -> None:
        self._writer = writer
        self._course = writer.course
        self._step = step
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._transaction: StepTransaction | SyncStepTransaction | None = None
        self._lock: asyncio.Lock | None = None
        self.mark = mark
        self.number = number
        self.undoing = undoing
        self.is_told = False
        """Whether the saga's code has been told, so that it is ahead of its journal until the commit."""
        self.write: Write | None = None
        """What is written in its transaction."""

    async def run(self) -> Result:
        """Run the code until something has come of it.

        Raises Ahead where that would be a second time, and what ``SagaWriter.check`` does.
        """
        tools = self._writer.tools
        if tools.database.is_sqlite:
            await self._take_lock()
        return await tools.execution.settle(self._describe, self._ask)

    def release(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _describe(self) -> Run:
        if self.is_told:
            raise Ahead
        saga, action = self._writer.saga, self._step.compensate if self.undoing else self._step.action
        assert action is not None, "what has no compensation is not undone"
        name = f"{self.mark.name} (undone)" if self.undoing else self.mark.name
        return Run(
            Origin(
                name, f"{saga.type} {saga.id}", written_at(action), misfit=SagaDefinitionError, over_limit=SagaError
            ),
            partial(self._call, action),
            is_coroutine_function(action),
            opening=self._opening,
            stands=self._stands,
            around=self._around,
            over=self._over,
            closing=self._closing,
        )

    def _call(self, action: Callable[..., Any], session: Any) -> Any:
        saga, outbox = self._writer.saga, self._writer.tools.outbox
        place = f"{saga.run}/{self.mark.path}" + ("/undo" if self.undoing else "")
        kind = StepTransaction if is_coroutine_function(action) else SyncStepTransaction
        self._transaction = kind(session, self._course.instance, place, self.number, outbox)
        return action(self._transaction, *self._step.arguments)

    def _over(self) -> None:
        if self._transaction is not None:
            self._transaction.close()

    def _opening(self, connection: Connection) -> bool:
        return self._writer.tools.store.is_mine(connection, self._writer.saga)

    def _stands(self, connection: Connection) -> bool:
        return has_open_transaction(connection) is True and self._opening(connection)

    @contextmanager
    def _around(self) -> Iterator[None]:
        saga, hooks = self._writer.saga, self._writer.tools.hooks
        runs = StepRuns(saga.type, saga.id, self.mark.name, self.number, self.undoing, saga.headers)
        with correlated(self._course.instance.correlation_id), hooks.within(runs):
            yield

    def _closing(self, connection: Connection, value: object) -> None:
        text, back = ("null", None) if self.undoing else self._step.form.write(value)
        write = self._told(text, back)
        self._writer.put(connection, self._course.rows, write)

    def _told(self, text: str, value: object) -> Write:
        """Tell the saga's code, in the event loop, whichever thread this is."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._tell(text, value), self._loop).result()
        write: Write = await_only(self._tell(text, value))
        return write

    async def _tell(self, text: str, value: object) -> Write:
        try:
            await self._take_lock()
        except Exception as error:  # no failure of the step's, and it must not be committed
            late = f"{self.mark.name} came too late: {self._writer.saga.id} has been begun anew meanwhile."
            raise LeaseLost(late) from error
        self.is_told = True
        self.write = await self._plan(text, value)
        return self.write

    async def _take_lock(self) -> None:
        """Keep others from writing. Raises what ``SagaWriter.check`` does."""
        if self._lock is None:
            lock = self._writer.lock
            await lock.acquire()
            self._lock = lock
        try:
            self._writer.check()
        except Exception:
            self.release()
            raise

    async def _ask(self, question: Callable[[Connection], bool]) -> bool:
        tools = self._writer.tools
        return await tools.outages.insist(lambda: tools.database.transact(question), while_=may_pass)
