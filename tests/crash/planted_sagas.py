"""Bugs that people do write in a saga's engine, each put into a process of the explorer to see that it is found."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from rig.planting import instead_of
from txpatterns.execution import Came, Result
from txpatterns.sagas import compensation
from txpatterns.sagas.attempt import Attempt
from txpatterns.sagas.calling import Calling, Calls
from txpatterns.sagas.claims import Claimed
from txpatterns.sagas.course import Course
from txpatterns.sagas.events import Events
from txpatterns.sagas.facts import Undone
from txpatterns.sagas.lock_store import LockStore
from txpatterns.sagas.neighbours import Neighbours
from txpatterns.sagas.opened import Open
from txpatterns.sagas.past import Past
from txpatterns.sagas.schema import saga_table
from txpatterns.sagas.signals import Command
from txpatterns.sagas.steps import Steps
from txpatterns.sagas.store import Entry, SagaStore, Write
from txpatterns.sagas.undoing import Deed, Undoing
from txpatterns.sagas.waits import Waits
from txpatterns.sagas.writer import SagaWriter
from txpatterns.testing.explorer import Surroundings

_PATCH = pytest.MonkeyPatch()
"""Nobody undoes it: a process of the explorer ends with its bug."""


def writes_the_fact_behind_the_commit(_: Surroundings) -> None:
    put, conclude, closing = SagaWriter.put, Steps._conclude, Attempt._closing
    put_off: list[Write] = []
    in_a_step: list[bool] = []

    @instead_of(_PATCH, SagaWriter, put)
    def later(self: SagaWriter, connection: sa.Connection, rows: int, write: Write) -> None:
        if in_a_step:
            put_off.append(write)
        else:
            put(self, connection, rows, write)

    @instead_of(_PATCH, Attempt, closing)
    def without_a_fact(self: Attempt, connection: sa.Connection, value: object) -> None:
        in_a_step.append(True)
        try:
            closing(self, connection, value)
        finally:
            in_a_step.pop()

    @instead_of(_PATCH, Steps, conclude)
    async def behind(self: Steps, attempt: Attempt, result: Result, fail: Any) -> None:
        if put_off and result.came is Came.DONE:
            writer, write = self._writer, put_off.pop()
            rows = writer.course.rows
            await writer.tools.database.transact(lambda connection: put(writer, connection, rows, write))
        await conclude(self, attempt, result, fail)


def undoes_in_the_order_of_doing(_: Surroundings) -> None:
    real = Undoing.next

    @instead_of(_PATCH, Undoing, real)
    def forward(self: Undoing) -> Deed | None:
        self._deeds.reverse()
        try:
            return real(self)
        finally:
            self._deeds.reverse()


def forgets_what_is_undone(_: Surroundings) -> None:
    take = Past._take

    @instead_of(_PATCH, Past, take)
    def without_undone(self: Past, fact: object, since: float) -> None:
        if not isinstance(fact, Undone):
            take(self, fact, since)


def does_not_look_at_the_epoch(_: Surroundings) -> None:
    real = SagaStore.write

    @instead_of(_PATCH, SagaStore, real)
    def whoever(self: SagaStore, connection: sa.Connection, saga: Claimed, n: int, write: Write) -> None:
        query = sa.select(saga_table.c.epoch).where(saga_table.c.number == saga.number)
        epoch = self.database.execute_beside(connection, query).scalar_one()
        last = sa.text("SELECT coalesce(max(n), 0) FROM txp_saga_journal WHERE saga = :saga")
        n = 1 + connection.execute(last, {"saga": saga.number}).scalar_one()
        real(self, connection, replace(saga, epoch=epoch), n, write)

    instead_of(_PATCH, SagaStore, SagaStore.is_mine)(lambda self, connection, saga: True)


def forgets_what_the_code_sends(_: Surroundings) -> None:
    put = SagaWriter.put

    @instead_of(_PATCH, SagaWriter, put)
    def silent(self: SagaWriter, connection: sa.Connection, rows: int, write: Write) -> None:
        put(self, connection, rows, replace(write, emits=()))


def goes_on_after_a_write_that_may_be_lost(_: Surroundings) -> None:
    @instead_of(_PATCH, SagaWriter, SagaWriter.write)
    async def hopeful(self: SagaWriter, write: Write) -> None:
        rows = self.course.rows
        with suppress(Exception):
            await self.tools.database.transact(lambda connection: self.put(connection, rows, write))
        self.took(write)


def leaves_children_alone(_: Surroundings) -> None:
    instead_of(_PATCH, Neighbours, Neighbours._cancel)(lambda self, connection, number: None)


def frees_a_lock_for_nobody(_: Surroundings) -> None:
    """Whoever waits for it sleeps on: nobody looks after it, either."""
    instead_of(_PATCH, LockStore, LockStore._pass_on)(lambda self, connection, names: [])


def undoes_without_a_fact(_: Surroundings) -> None:
    undone = compensation.undone
    instead_of(_PATCH, compensation, undone)(lambda course, deed: replace(undone(course, deed), facts=()))


def begins_anew_without_the_facts(_: Surroundings) -> None:
    real = SagaStore.write

    @instead_of(_PATCH, SagaStore, real)
    def forgetful(self: SagaStore, connection: sa.Connection, saga: Claimed, n: int, write: Write) -> None:
        begins_anew = write.standing is not None and write.standing.restart is not None
        real(self, connection, saga, n, replace(write, facts=()) if begins_anew else write)


def forgets_what_was_under_way(_: Surroundings) -> None:
    instead_of(_PATCH, Undoing, Undoing.may_have_done)(lambda self, operation, began_at: None)


def forgets_which_events_it_has_had(_: Surroundings) -> None:
    real = Course.rebuild

    @instead_of(_PATCH, Course, real)
    def forgetful(self: Course, entries: Sequence[Entry], now: datetime) -> Write | None:
        write = real(self, entries, now)
        self.had.clear()
        return write


def sends_a_command_before_it_waits(_: Surroundings) -> None:
    begin, begins = Waits._begin, Events.begins

    @instead_of(_PATCH, Waits, begin)
    async def ahead(self: Waits, opened: Open) -> None:
        work, tools = opened.operation.work, self._writer.tools
        if isinstance(work, Command):
            await tools.database.transact(lambda connection: tools.outbox.add(connection, work.event))
        await begin(self, opened)

    @instead_of(_PATCH, Events, begins)
    def without_it(self: Events, opened: Open, write: Write) -> Write:
        return replace(begins(self, opened, write), emits=write.emits)


def writes_that_a_call_is_undone_before_it_is(_: Surroundings) -> None:
    @instead_of(_PATCH, Calls, Calls.undo)
    async def hopeful(self: Calls, deed: Deed) -> None:
        course = self._writer.course
        await self._writer.write(compensation.undone(course, deed))
        await Calling(self._writer.tools, course, deed.operation, 1).undone(deed)
