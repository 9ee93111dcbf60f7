"""Looking at sagas without owning one: which are due, where one stands, which are old."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.coordination.claims import Claims
from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite
from txpatterns.sagas.schema import saga_journal_table, saga_table

_saga, _journal = saga_table.c, saga_journal_table.c
_CHUNK = 500
_NOTHING = timedelta(0)
_FIND = sa.select(saga_table).where(_saga.type == sa.bindparam("type"), _saga.id == sa.bindparam("id"))

Known = Sequence[tuple[str, int, int, str]]
"""What can be run here: type, first and last version, fingerprint."""


class SagaLooks:
    """The statements about all sagas."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.claims = Claims(database, saga_table)

    def give_back(
        self, connection: Connection, owner: str, running: Collection[int], *, older_than: timedelta = _NOTHING
    ) -> int:
        """Let others claim what this process owns and does not run; says how many that were.

        What was started less long ago than ``older_than`` may be about to begin.
        """
        young = [_saga.started_at < self.database.now(-older_than)] if older_than > _NOTHING else []
        return self.claims.give_back(connection, owner, running, *young)

    def clean(self, connection: Connection, older_than: timedelta) -> int:
        """Forget some sagas that have ended longer ago than that, with their journals; says how many.

        A child is kept as long as its parent may still ask what it has come to.
        """
        parent = saga_table.alias("parent").c
        is_needed = sa.exists().where(parent.number == _saga.parent, parent.ended_at.is_(None))
        ended = (_saga.ended_at < self.database.now(-older_than), sa.not_(is_needed))
        old = sa.select(_saga.number).where(*ended).limit(_CHUNK)
        if not is_sqlite(connection):
            old = old.with_for_update(skip_locked=True)
        numbers = list(connection.execute(old).scalars())
        if numbers:
            connection.execute(sa.delete(saga_journal_table).where(_journal.saga.in_(numbers)))
            connection.execute(sa.delete(saga_table).where(_saga.number.in_(numbers)))
        return len(numbers)

    def find(self, connection: Connection, type_: str, id_: str) -> RowMapping | None:
        """Read where a saga stands; None: there is none with this id."""
        return connection.execute(_FIND, {"type": type_, "id": id_}).mappings().one_or_none()

    def has_due(self, connection: Connection, known: Known, moment: datetime) -> bool:
        """Whether a saga that can be run here is due, and was at a moment of the database's clock, whoever owns it."""
        return self.claims.has_due(connection, moment, served(known))

    def next_due(self, connection: Connection, known: Known, within: timedelta) -> timedelta | None:
        """Say how long until a saga is due that can be run here and nobody owns; None: not within that time."""
        return self.claims.next_due(connection, within, _saga.owner.is_(None), served(known))


def served(known: Known) -> sa.ColumnElement[bool]:
    """Say that a saga can be run here, and did not turn out to be at odds with this very code."""
    return sa.or_(
        sa.false(),
        *(
            sa.and_(
                # An expression, or SQLite would take the index on types, which has all sagas that have ended.
                sa.func.coalesce(_saga.type, "") == type_,
                _saga.version.between(since, version),
                sa.or_(_saga.diverged.is_(None), sa.not_(_saga.diverged.contains(fingerprint))),
            )
            for type_, since, version, fingerprint in known
        ),
    )
