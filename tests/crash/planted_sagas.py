"""Bugs that people do write in a saga's engine, each put into a process of the explorer to see that it is found."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from txpatterns.execution import Came, Result
from txpatterns.sagas.attempt import Attempt
from txpatterns.sagas.course import Course
from txpatterns.sagas.facts import Undone
from txpatterns.sagas.schema import saga_table
from txpatterns.sagas.steps import Steps
from txpatterns.sagas.store import Claimed, Entry, SagaStore, Write
from txpatterns.sagas.writer import SagaWriter
from txpatterns.testing.explorer import Surroundings


def writes_the_fact_behind_the_commit(_: Surroundings) -> None:
    put, conclude, closing = SagaWriter.put, Steps._conclude, Attempt._closing
    put_off: list[Write] = []
    in_a_step: list[bool] = []

    def later(self: SagaWriter, connection: sa.Connection, rows: int, write: Write) -> None:
        if in_a_step:
            put_off.append(write)
        else:
            put(self, connection, rows, write)

    def without_a_fact(self: Attempt, connection: sa.Connection, value: object) -> None:
        in_a_step.append(True)
        try:
            closing(self, connection, value)
        finally:
            in_a_step.pop()

    async def behind(self: Steps, attempt: Attempt, result: Result, fail: Any) -> None:
        if put_off and result.came is Came.DONE:
            writer, write = self._writer, put_off.pop()
            rows = writer.course.rows
            await writer.tools.database.transact(lambda connection: put(writer, connection, rows, write))
        await conclude(self, attempt, result, fail)

    SagaWriter.put, Attempt._closing, Steps._conclude = later, without_a_fact, behind


def undoes_in_the_order_of_doing(_: Surroundings) -> None:
    to_undo = Course.to_undo

    def forward(self: Course) -> Any:
        self._done.reverse()
        try:
            return to_undo(self)
        finally:
            self._done.reverse()

    Course.to_undo = forward


def forgets_what_is_undone(_: Surroundings) -> None:
    take = Course._take

    def without_undone(self: Course, entries: Sequence[Entry], now: Any) -> None:
        take(self, [replace(e, facts=[f for f in e.facts if not isinstance(f, Undone)]) for e in entries], now)

    Course._take = without_undone


def does_not_look_at_the_epoch(_: Surroundings) -> None:
    write = SagaStore.write

    def whoever(self: SagaStore, connection: sa.Connection, saga: Claimed, n: int, what: Write) -> None:
        query = sa.select(saga_table.c.epoch).where(saga_table.c.number == saga.number)
        epoch = self.database.execute_beside(connection, query).scalar_one()
        last = sa.text("SELECT coalesce(max(n), 0) FROM txp_saga_journal WHERE saga = :saga")
        n = 1 + connection.execute(last, {"saga": saga.number}).scalar_one()
        write(self, connection, replace(saga, epoch=epoch), n, what)

    SagaStore.write = whoever
    SagaStore.is_mine = lambda self, connection, saga: True


def forgets_what_the_code_sends(_: Surroundings) -> None:
    put = SagaWriter.put

    def silent(self: SagaWriter, connection: sa.Connection, rows: int, write: Write) -> None:
        put(self, connection, rows, replace(write, emits=()))

    SagaWriter.put = silent


def goes_on_after_a_write_that_may_be_lost(_: Surroundings) -> None:
    async def hopeful(self: SagaWriter, write: Write) -> None:
        rows = self.course.rows
        with suppress(Exception):
            await self.tools.database.transact(lambda connection: self.put(connection, rows, write))
        self.took(write)

    SagaWriter.write = hopeful


def undoes_without_a_fact(_: Surroundings) -> None:
    undone = Course.undone
    Course.undone = lambda self, operation: replace(undone(self, operation), facts=())
