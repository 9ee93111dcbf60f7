"""Doing what coordinators elsewhere ask the local participants of this application for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.correlation import CORRELATION_ID
from txpatterns.database.dialects import may_pass
from txpatterns.errors import Reject, TccDefinitionError
from txpatterns.execution import Came, Run
from txpatterns.tcc.barrier import CHUNK, Admission, Barrier, Request, Verdict
from txpatterns.tcc.participants import Mode, Participant
from txpatterns.tcc.parts import Part, Tools, origin_of
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.transactions import Asked, Instance

logger = logging.getLogger("txpatterns")

_CLEAN_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Asking:
    """A request with all that its participant is told."""

    request: Request
    arguments: str
    """As JSON."""
    started_at: datetime
    correlation_id: str
    attempt: int = 1
    result: str | None = None
    """What the try has returned, as JSON, where it is to be confirmed or cancelled."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What is stored with what the participant sends."""
        return {CORRELATION_ID: self.correlation_id}


class Serving:
    """Lets the local participants of an application take part in transactions that others run."""

    def __init__(self, tools: Tools, barrier: Barrier) -> None:
        self._tools = tools
        self.barrier = barrier
        self._clean_at = 0.0

    async def serve(self, asking: Asking) -> Admission:
        """Do what is asked for, once however often it comes; gives what is to be answered.

        Raises:
            TccDefinitionError: there is no such local participant, or the arguments do not fit it.
            Reject: the participant says no.
        """
        participant = self._tools.participants.find(asking.request.participant)
        if participant is None or participant.mode != Mode.LOCAL:
            raise TccDefinitionError(f"There is no local participant {asking.request.participant[:40]!r} here.")
        try:
            arguments: Any = participant.arguments.read(asking.arguments)
            result = None if asking.result is None else participant.result.read(asking.result)
        except ValueError as error:
            raise TccDefinitionError(f"The arguments do not fit {participant.name}.") from error
        admission = await _Served(self._tools, self.barrier, asking, participant, arguments, result).run()
        await self._clean()
        return admission

    async def _clean(self) -> None:
        """Forget what is old by and by: no coordinator may run where participants are served."""
        now = self._tools.database.clock.monotonic()
        if now < self._clean_at:
            return
        self._clean_at = now + _CLEAN_EVERY
        try:
            if await self._tools.database.transact(self.barrier.clean) >= CHUNK:
                self._clean_at = now
        except Exception as error:
            if not may_pass(error):
                raise
            logger.warning("the old notes of the barrier are still there: %s", type(error).__name__)


class _Served:
    """One request that is being done."""

    def __init__(
        self,
        tools: Tools,
        barrier: Barrier,
        asking: Asking,
        participant: Participant[..., Any],
        arguments: tuple[Any, ...],
        result: Any,
    ) -> None:
        self._tools = tools
        self._barrier = barrier
        self._asking = asking
        app, _, transaction_id = asking.request.xid.partition("/")
        instance = Instance(app, transaction_id, asking.started_at, asking.request.expires_at, asking.headers)
        asked = Asked(instance, asking.request.branch, asking.request.operation, asking.attempt, result)
        self._part = Part(tools, participant, asked, arguments)
        self._admission = Admission(Verdict.RUN)
        self._answer: str | None = None

    async def run(self) -> Admission:
        database = self._tools.database

        async def ask(question: Callable[[Connection], bool]) -> bool:
            return await database.transact(question)

        result = await self._tools.execution.settle(self._describe, ask)
        if result.came is Came.DONE:
            self._part.tell_done()
            return Admission(Verdict.DONE, self._answer)
        if result.came is Came.REFUSED:
            return self._admission
        assert result.error is not None, f"{result.came} comes with an error"
        self._part.tell_raised(result.error)
        if isinstance(result.error, Reject) and self._asking.request.operation == Operation.TRY:
            admission = await database.transact(partial(self._barrier.refuse, request=self._asking.request))
            if admission.verdict is Verdict.DONE:
                return admission
        raise result.error

    def _describe(self) -> Run:
        participant, request = self._part.participant, self._asking.request
        call: Callable[..., Any] = self._part.in_loop if participant.is_async else self._part.in_thread
        return Run(
            origin_of(participant, request.operation, self._part.asked.instance.id),
            call,
            participant.is_async,
            opening=self._opening,
            stands=lambda connection: self._barrier.is_noted(connection, request),
            around=nullcontext,
            closing=self._closing if request.operation == Operation.TRY else None,
        )

    def _opening(self, connection: Connection) -> bool:
        self._admission = self._barrier.admit(connection, self._asking.request)
        return self._admission.verdict is Verdict.RUN

    def _closing(self, connection: Connection, value: object) -> None:
        text, _ = self._part.participant.result.write(value)
        self._answer = text
        self._barrier.answered(connection, self._asking.request, text)
