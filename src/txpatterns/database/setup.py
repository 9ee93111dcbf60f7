"""Making the tables where they are missing."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.schema import SCHEMA_VERSION, database_table, metadata
from txpatterns.messages import new_id


def create_missing(connection: Connection) -> list[str]:
    """Make our tables where they are missing and give the database its uid; gives the names of what was made.

    Only tables of imported parts are known; ``txpatterns.app`` imports them all.
    """
    present = set(sa.inspect(connection).get_table_names())
    missing = [table for table in metadata.sorted_tables if table.name not in present]
    metadata.create_all(connection, tables=missing)
    if connection.execute(sa.select(database_table.c.uid)).first() is None:
        connection.execute(sa.insert(database_table).values(uid=new_id(), version=SCHEMA_VERSION))
    return [table.name for table in missing]
