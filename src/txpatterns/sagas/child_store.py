"""Reading what has become of a saga's children."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.database import Database
from txpatterns.errors import SagaDiverged
from txpatterns.sagas.facts import Failure, Finished, read
from txpatterns.sagas.schema import Status, saga_journal_table, saga_table

_saga, _journal = saga_table.c, saga_journal_table.c


@dataclass(frozen=True, slots=True)
class EndOfChild:
    """What a child has come to: a result, as JSON, or a failure."""

    result: str | None = None
    failure: Failure | None = None


class ChildStore:
    """The statements about children."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_there(self, connection: Connection, parent: int, type_: str, id_: str) -> bool:
        """Whether a saga has such a child."""
        query = sa.select(_saga.number).where(_saga.type == type_, _saga.id == id_, _saga.parent == parent)
        return self._database.execute_beside(connection, query).first() is not None

    def end(self, connection: Connection, parent: int, type_: str, id_: str) -> EndOfChild | None:
        """Give what a child has come to; None: it has not ended."""
        mine = (_saga.type == type_, _saga.id == id_, _saga.parent == parent, _saga.ended_at.is_not(None))
        names = (_saga.number, _saga.run, _saga.status, _saga.result, _saga.error)
        row = self._database.execute_beside(connection, sa.select(*names).where(*mine)).first()
        if row is None:
            return None
        if row.status == Status.COMPLETED:
            return EndOfChild(result=row.result)
        failure = self._failure(connection, row.number, row.run)
        return EndOfChild(failure=failure or Failure("txpatterns.errors:SagaFailed", row.error))

    def _failure(self, connection: Connection, number: int, run: int) -> Failure | None:
        """Give the error that a child has ended with, where its journal can be read."""
        query = sa.select(_journal.facts).where(_journal.saga == number, _journal.run == run).order_by(_journal.n)
        try:
            facts = [fact for text in self._database.execute_beside(connection, query).scalars() for fact in read(text)]
        except SagaDiverged:
            return None
        ends = [fact.failure for fact in facts if isinstance(fact, Finished) and fact.failure is not None]
        return ends[-1] if ends else None
