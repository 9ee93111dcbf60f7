"""Writing for one course of a saga: one write at a time, in a transaction of the library's own or of a step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

from sqlalchemy.engine import Connection

from txpatterns.database.dialects import may_pass
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.course import Course
from txpatterns.sagas.facts import Mark
from txpatterns.sagas.handles import outcome_of
from txpatterns.sagas.moments import SagaEnded, SagaNeedsAttention, StepDone
from txpatterns.sagas.runs import Restart
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import Standing, Write
from txpatterns.sagas.tools import Tools

_LONG = "its journal has {} rows, and each replay takes longer: see saga.restart()"


class Ahead(Exception):
    """The code has been told what is perhaps not written: the course is made anew from the journal.

    ``error`` is what the operation at ``path`` failed of, if its commit is known to have failed.
    """

    def __init__(self, path: str = "", error: BaseException | None = None) -> None:
        super().__init__(path)
        self.path = path
        self.error = error


class SagaWriter:
    """Writes what a course has planned, and knows when nothing is left to do for this process."""

    def __init__(self, tools: Tools, course: Course) -> None:
        self.tools = tools
        self.course = course
        self.lock = asyncio.Lock()
        """Held from when the code is told something until that is committed. Who has it asks ``check`` first."""
        self.is_over = False
        """Whether the saga has ended or waits, so that its owner lets go of it; or begins anew."""
        self.restart: Restart | None = None
        """How it begins anew."""
        self.attention = course.saga.attention
        """Why a person should look at it, as it is written."""
        self.has_ended = False
        """Whether it has ended for good."""
        self._thrown_away_for: Exception | None = None
        """Why the course is thrown away: nothing may be written any more that it has planned."""
        self._asked: Standing | None = None
        """Where it stands since a person is asked; whatever ends then of what else runs leaves it there."""

    @property
    def saga(self) -> Claimed:
        """The saga."""
        return self.course.saga

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Tell the code something, and write what follows, while nobody else does. Raises what ``check`` does."""
        async with self.lock:
            self.check()
            with self.or_thrown_away():
                yield

    def check(self) -> None:
        """Raise what the course was thrown away for, if it was.

        Its code has been told what is not written then, and whatever it says now would follow from that.
        """
        if self._thrown_away_for is not None:
            raise self._thrown_away_for

    def throw_away(self, error: Exception) -> None:
        """Let nobody go on with the course; who wants to is told the first error that ended it."""
        self._thrown_away_for = self._thrown_away_for or error

    @contextmanager
    def or_thrown_away(self) -> Iterator[None]:
        """Throw the course away for whatever is raised here, before others take the lock and go on with it."""
        try:
            yield
        except BaseException as error:
            self.throw_away(error if isinstance(error, Exception) else Ahead())
            raise

    async def write(self, write: Write) -> None:
        """Write in a transaction of our own. Raises Ahead where it is not known whether that is committed."""
        rows = self.course.rows
        try:
            if write.is_one_statement:
                await self.tools.group.write(self.saga, rows + 1, self._as_asked(write))
            else:
                await self.tools.database.transact(partial(self.put, rows=rows, write=write))
        except Exception as error:
            if not may_pass(error):
                raise
            await self.tools.outages.pause(error)
            raise Ahead from error
        self.tools.outages.fine()
        self.took(write)

    def put(self, connection: Connection, rows: int, write: Write) -> None:
        """Write in a connection's transaction: the facts, where the saga stands, and what it sends."""
        tools, instance = self.tools, self.course.instance
        write = self._as_asked(write)
        tools.store.write(connection, self.saga, rows + 1, write)
        for path, event in write.emits:
            message_id = instance.message_id(f"{self.saga.run}/{path}")
            tools.outbox.add(connection, event, headers=instance.lineage(), message_id=message_id)

    def _as_asked(self, write: Write) -> Write:
        """Leave the saga where it stands since a person is asked; and say of a long journal that it is one."""
        if write.standing is not None and self._asked is not None:
            beside = replace(write.beside, parent=None, frees=False)  # it has not ended
            return replace(write, standing=self._asked, rests=False, waits_no_more=False, beside=beside)
        length, long = self.course.rows + write.is_new_row, self.tools.long_journal
        standing = write.standing or (Standing(Status.RUNNING) if self._becomes_long(write, length) else None)
        if standing is None or length < long or not standing.goes_on or standing.attention is not None:
            return write
        return replace(write, standing=replace(standing, attention=_LONG.format(long)))

    def _becomes_long(self, write: Write, length: int) -> bool:
        return write.is_new_row and length == self.tools.long_journal and self.course.failure is None

    def tell_done(self, mark: Mark, *, undoing: bool = False) -> None:
        """Tell the listeners that an operation has had its effect, or was undone."""
        self.tools.hooks.tell(StepDone(self.saga.type, self.saga.id, mark.name, undoing))

    def took(self, write: Write) -> None:
        """A write is committed."""
        self.course.rows += write.is_new_row
        if self._becomes_long(write, self.course.rows):
            self._tell_of_attention(_LONG.format(self.course.rows))
        self.course.written()
        standing, saga, hooks = write.standing, self.saga, self.tools.hooks
        if write.starts or write.beside:
            self.tools.wake()
        if standing is None:
            return
        self.restart = standing.restart
        self.is_over = self.is_over or not standing.is_owned or standing.restart is not None
        before, self.attention = self.attention, standing.attention
        if standing.attention is not None and standing.is_news and standing.attention != before:
            self._tell_of_attention(standing.attention)
        if standing.is_end:
            self.has_ended = True
            self.tools.ended(saga.type, saga.id, outcome_of(standing))
            hooks.tell(SagaEnded(saga.type, saga.id, standing.status, standing.error))

    def _tell_of_attention(self, why: str) -> None:
        self.tools.hooks.tell(SagaNeedsAttention(self.saga.type, self.saga.id, why))

    async def ask_of_length(self) -> None:
        """Leave a saga to a person whose journal must not become longer."""
        await self.ask(f"its journal has {self.course.rows} rows, and does not become longer: see saga.restart()")

    async def ask(self, why: str, *, again: timedelta | None = None) -> None:
        """Leave a saga to a person, or to its deadline; where ``again`` is given it is tried after that time."""
        is_undone = self.course.failure is not None or self.saga.status is Status.COMPENSATING
        status = Status.COMPENSATING if is_undone else Status.RUNNING
        asked = Standing(status, self.course.deadline.or_sooner(again), is_owned=False, attention=why)
        await self.write(Write((), asked))
        self._asked = asked
