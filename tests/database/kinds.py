"""A kind beside the messages that a commit writes, made for the tests: notes, each with what it found already there."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database, deferred
from txpatterns.database.deferred import AnyTransaction, Entry, Kind, Writer
from txpatterns.database.identity import Identity
from txpatterns.outbox.schema import outbox_table

metadata = sa.MetaData()
note_table = sa.Table(
    "note",
    metadata,
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, unique=True),
    sa.Column("by", sa.String),
    sa.Column("messages", sa.Integer, nullable=False, server_default="0"),
)
NOTES = sa.select(note_table).order_by(note_table.c.place)
EARLY, LATE = Kind.MESSAGES - 20, Kind.MESSAGES - 10


class Notes:
    """Writes notes of one kind; ``meanwhile`` is called as it does."""

    def __init__(
        self,
        database: Database,
        kind: int = EARLY,
        *,
        is_sorted: bool = False,
        meanwhile: Callable[[Connection], object] = lambda connection: None,
    ) -> None:
        self.told = 0
        self.meanwhile = meanwhile
        sort_key = str if is_sorted else None
        self.writer = Writer(kind, Identity(database), self._write, self._committed, sort_key)

    def add(self, transaction: AnyTransaction, id_: str) -> None:
        deferred.add(deferred.plain(transaction), Entry(self.writer, id_, id_))

    def cancel(self, connection: Connection, id_: str) -> bool:
        return deferred.cancel(connection, self.writer.kind, id_)

    def _write(self, connection: Connection, ids: Sequence[str]) -> None:
        # Those of this transaction: the tables are empty before it.
        messages = connection.execute(sa.select(sa.func.count()).select_from(outbox_table)).scalar_one()
        by = str(self.writer.kind)
        connection.execute(sa.insert(note_table), [{"id": id_, "by": by, "messages": messages} for id_ in ids])
        self.meanwhile(connection)

    def _committed(self, _ids: Sequence[str]) -> None:
        self.told += 1
