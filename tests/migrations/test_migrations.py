"""The tables as migrations: the same as the metadata, on their own version table, safe to run twice."""

import pytest
import sqlalchemy as sa
from sqlalchemy import inspect

import txpatterns  # noqa: F401 - makes all tables known
from txpatterns.database import Database, migrations
from txpatterns.database.schema import SCHEMA_REVISION, VERSION_TABLE, attach, database_table, metadata
from txpatterns.database.setup import create_missing, verify
from txpatterns.errors import ConfigurationError


async def tables_of(db):
    return set(await db.read(lambda connection: inspect(connection).get_table_names()))


async def test_the_migrated_tables_are_those_of_the_metadata(any_database):
    """H100: what `txp db upgrade` makes is what the code expects, on each database and driver."""
    async with Database(any_database) as db:
        done = await db.transact(migrations.upgrade)
        assert done.current is None
        state = await db.read(migrations.check)
        assert state.differences == ()
        assert state.current == state.head == SCHEMA_REVISION
        partitions = set() if db.is_sqlite else {"txp_outbox_sent_default"}
        assert await tables_of(db) == {*metadata.tables, VERSION_TABLE, *partitions}


async def test_the_migrated_tables_have_the_defaults_of_the_metadata(any_database):
    """H100: server defaults, nullability and identity are the same by either way of making the tables."""

    def shape(connection):
        found = inspect(connection).get_multi_columns()
        keep = ("name", "nullable", "default", "identity", "autoincrement", "comment")
        return {
            table: [{key: column.get(key) for key in keep} | {"type": str(column["type"])} for column in columns]
            for (_, table), columns in found.items()
        }

    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        migrated = await db.read(shape)
        await db.transact(metadata.drop_all)
        await db.transact(lambda connection: connection.execute(sa.text(f"DROP TABLE {VERSION_TABLE}")))
        await db.transact(create_missing)
        assert await db.read(shape) == migrated


async def test_a_missing_column_is_a_difference(any_database):
    """H100: `txp db check` can fail."""
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        await db.execute(sa.text("ALTER TABLE txp_outbox_waiting DROP COLUMN error"))
        state = await db.read(migrations.check)
        assert state.differences == ("add column txp_outbox_waiting.error",)
        assert not state.is_current


async def test_upgrading_twice_changes_nothing_and_keeps_the_uid(any_database):
    """H100: a deployment may run the command on every start, from several places at once."""
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        uid = await db.read(lambda connection: connection.scalar(sa.select(database_table.c.uid)))
        done = await db.transact(migrations.upgrade)
        assert done.current == done.head
        assert await db.read(lambda connection: connection.scalar(sa.select(database_table.c.uid))) == uid


async def test_tables_of_another_chain_are_left_alone(any_database):
    """H100: tables that came with the user's own migrations are not migrated a second time."""
    mine = attach(sa.MetaData())
    sa.Table("alembic_version", mine, sa.Column("version_num", sa.String(32), primary_key=True))
    async with Database(any_database) as db:
        await db.transact(mine.create_all)
        with pytest.raises(ConfigurationError, match="own Alembic chain"):
            await db.transact(migrations.upgrade)


async def test_tables_made_without_migrations_are_no_upgraded_ones_on_a_server(database):
    """H28, H100: they lack what only the migrations set on PostgreSQL, so no revision is noted for them."""
    async with Database(database.url("asyncpg")) as db:
        await db.transact(attach(sa.MetaData()).create_all)
        with pytest.raises(ConfigurationError, match="own Alembic chain"):
            await db.transact(migrations.upgrade)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_offline_sql_tells_everything(dialect):
    """H100: whoever may not run our command gets the statements, the uid row and our version table included."""
    text = migrations.sql(dialect)
    for table in metadata.tables:
        assert f"CREATE TABLE {table} (" in text
    assert "INSERT INTO txp_database" in text
    assert f"INSERT INTO {VERSION_TABLE}" in text
    assert ("autovacuum_vacuum_scale_factor = 0" in text) == (dialect == "postgresql")


async def test_offline_sql_runs_as_it_is(database):
    """H100: the text is not only read: run by a plain client it makes what the command makes."""
    import psycopg

    with psycopg.connect(database.url()) as connection:
        connection.execute(migrations.sql("postgresql").encode())
    async with Database(database.url("asyncpg")) as db:
        assert (await db.read(migrations.check)).differences == ()
        await db.transact(verify)


async def test_postgresql_vacuums_the_outbox_by_number(database):
    """H28: a table that is empty most of the time and sees millions of rows needs thresholds of its own."""
    async with Database(database.url("asyncpg")) as db:
        await db.transact(migrations.upgrade)
        query = sa.text("SELECT reloptions FROM pg_class WHERE relname = :name")

        def options(name):
            return lambda connection: connection.scalar(query, {"name": name})

        assert "autovacuum_vacuum_scale_factor=0" in await db.read(options("txp_outbox"))
        assert "fillfactor=50" in await db.read(options("txp_lease"))


async def test_a_locked_table_does_not_hold_up_the_application(database):
    """H100: the migration gives up soon where others hold a lock, instead of letting everybody queue behind it."""
    async with Database(database.url("asyncpg")) as db:
        seen = []

        def work(connection):
            migrations.upgrade(connection)
            seen.append(connection.scalar(sa.text("SHOW lock_timeout")))

        await db.transact(work)
        assert seen == ["2s"]
        # It is gone with the transaction: the pooled connection goes on as before.
        assert await db.read(lambda connection: connection.scalar(sa.text("SHOW lock_timeout"))) == "0"
