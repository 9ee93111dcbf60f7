"""Run by Alembic for each command: the connection comes from the caller, and only our own tables are touched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from txpatterns.database.schema import VERSION_TABLE, metadata

_LOCK = 7_428_113_901_556_220  # any number that nobody else locks; the same in every version


def run_offline(dialect: str, schema: str | None) -> None:
    context.configure(
        dialect_name=dialect,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if schema is not None:
            quoted = context.get_context().dialect.identifier_preparer.quote(schema)
            context.execute(f"SET LOCAL search_path TO {quoted}")
        context.run_migrations()


def run_online(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # One migration at a time; and a table in use is given up soon, or all others would queue behind us.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    context.run_migrations()


if context.is_offline_mode():
    run_offline(context.config.attributes["dialect"], context.config.attributes["schema"])
else:
    run_online(context.config.attributes["connection"])
