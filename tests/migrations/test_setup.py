"""Making the tables at the start, and refusing what does not fit."""

import pytest
import sqlalchemy as sa

import txpatterns  # noqa: F401 - makes all tables known
from txpatterns.database import Database, migrations, setup
from txpatterns.database.identity import read_uid
from txpatterns.database.schema import SCHEMA_VERSION, VERSION_TABLE, attach, database_table, metadata
from txpatterns.database.setup import create_missing, verify
from txpatterns.errors import ConfigurationError, SchemaError


async def test_made_tables_go_on_with_the_migrations(any_database):
    """H100: what the first start made is at the newest revision, so the next release's migration finds its place."""
    async with Database(any_database) as db:
        assert set(await db.transact(create_missing)) == set(metadata.tables)
        state = await db.read(migrations.check)
        assert (state.current, state.differences) == (state.head, ())
        await db.transact(migrations.upgrade)
        assert await db.transact(create_missing) == []


async def test_own_metadata_is_made_with_ours(any_database):
    """H100: one metadata, one creation, and no second chain of migrations beside the user's own."""
    mine = sa.MetaData()
    sa.Table("orders", mine, sa.Column("id", sa.String(36), primary_key=True))
    attach(mine)
    async with Database(any_database) as db:
        assert set(await db.transact(lambda connection: create_missing(connection, mine))) == set(mine.tables)
        sa.Table("later", mine, sa.Column("id", sa.Integer, primary_key=True))
        assert await db.transact(lambda connection: create_missing(connection, mine)) == ["later"]
        await db.transact(verify)
        names = await db.read(lambda connection: sa.inspect(connection).get_table_names())
        assert VERSION_TABLE not in names


async def test_own_tables_are_made_beside_upgraded_ones(any_database):
    """H100: `txp db upgrade` looks after our tables alone; what it left out stays its business, yours are made."""
    mine = sa.MetaData()
    sa.Table("orders", mine, sa.Column("id", sa.String(36), primary_key=True))
    attach(mine)
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        await db.execute(sa.text("DROP TABLE txp_dead_letter"))
        assert await db.transact(lambda connection: create_missing(connection, mine)) == ["orders"]
        assert await db.transact(lambda connection: create_missing(connection, mine)) == []
        with pytest.raises(SchemaError, match=r"txp_dead_letter.*txp db upgrade"):
            await db.transact(verify)


async def test_tables_made_at_the_start_can_be_upgraded(tmp_path):
    """H100: on SQLite the first start and the command may come in either order."""
    mine = sa.MetaData()
    sa.Table("orders", mine, sa.Column("id", sa.String(36), primary_key=True))
    attach(mine)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/a.db") as db:
        await db.transact(lambda connection: create_missing(connection, mine))
        assert (await db.transact(migrations.upgrade)).current is None
        state = await db.read(migrations.check)
        assert (state.current, state.differences) == (state.head, ())
        assert (await db.transact(migrations.upgrade)).current == state.head


async def test_tables_that_differ_are_not_taken_for_upgraded(tmp_path):
    """H100: a revision is noted only where it is true."""
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/a.db") as db:
        await db.transact(attach(sa.MetaData()).create_all)
        await db.execute(sa.text("ALTER TABLE txp_outbox_waiting DROP COLUMN error"))
        with pytest.raises(ConfigurationError, match="own Alembic chain"):
            await db.transact(migrations.upgrade)


async def test_a_database_that_alembic_looks_after_is_left_alone(any_database):
    """H100: no table appears beside the user's own migrations."""
    mine = sa.MetaData()
    sa.Table("alembic_version", mine, sa.Column("version_num", sa.String(32), primary_key=True))
    async with Database(any_database) as db:
        await db.transact(mine.create_all)
        assert await db.transact(create_missing) == []


async def test_missing_tables_are_refused_with_the_command(any_database):
    """H100: the first sentence a new installation reads says what to run."""
    async with Database(any_database) as db:
        with pytest.raises(SchemaError, match=r"missing in this database.*txp db upgrade"):
            await db.transact(verify)


async def test_an_older_table_is_refused_with_what_it_lacks(any_database):
    """H100: told at the start, not by the first statement that fails at night."""
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        await db.execute(sa.text("ALTER TABLE txp_outbox_waiting DROP COLUMN error"))
        with pytest.raises(SchemaError, match=r"txp_outbox_waiting\.error.*txp db upgrade"):
            await db.transact(verify)


async def test_attached_tables_are_mended_by_the_users_own_chain(any_database):
    """H100: the command in the error is the one that works there."""
    async with Database(any_database) as db:
        await db.transact(attach(sa.MetaData()).create_all)
        await db.transact(verify)
        await db.execute(sa.text("ALTER TABLE txp_outbox_waiting DROP COLUMN error"))
        with pytest.raises(SchemaError, match="alembic revision --autogenerate"):
            await db.transact(verify)


async def test_a_release_runs_before_its_own_migration(any_database, monkeypatch):
    """H100: what the newest version added is not needed until it is there."""
    monkeypatch.setattr(setup, "DISPENSABLE", frozenset({"txp_outbox_waiting.error"}))
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        await db.execute(sa.text("ALTER TABLE txp_outbox_waiting DROP COLUMN error"))
        await db.execute(sa.update(database_table).values(version=SCHEMA_VERSION - 1))
        await db.transact(verify)
        assert (
            await db.read(lambda connection: connection.scalar(sa.select(database_table.c.version)))
            == SCHEMA_VERSION - 1
        )
        await db.read(read_uid)


async def test_a_release_runs_on_the_tables_of_the_next_and_refuses_those_after(any_database):
    """H100: in a rolling upgrade the old release goes on beside the new one; two apart is too far."""
    async with Database(any_database) as db:
        await db.transact(migrations.upgrade)
        await db.execute(sa.text("ALTER TABLE txp_outbox ADD COLUMN added_later INTEGER"))
        await db.execute(sa.update(database_table).values(version=SCHEMA_VERSION + 1))
        await db.transact(verify)
        await db.execute(sa.update(database_table).values(version=SCHEMA_VERSION + 2))
        with pytest.raises(SchemaError, match="newer release"):
            await db.transact(verify)


async def test_every_database_gets_one_uid(any_database):
    """H3: tables that came through the user's own chain have no uid row; the first start writes it, once."""
    async with Database(any_database) as db:
        await db.transact(attach(sa.MetaData()).create_all)
        with pytest.raises(SchemaError, match="no uid"):
            await db.read(read_uid)
        await db.transact(verify)
        uid = await db.read(read_uid)
        await db.transact(verify)
        assert await db.read(read_uid) == uid
