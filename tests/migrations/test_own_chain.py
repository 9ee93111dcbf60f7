"""A user's own Alembic project with our tables attached: real commands, one chain, no second head."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from txpatterns.clock import SystemClock
from txpatterns.database import Database, not_ours
from txpatterns.database.engines import sync_side
from txpatterns.outbox.relay.partitions import KeptMessages

MODELS = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from txpatterns import attach

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)

attach(Base.metadata)
"""
LATER = MODELS.replace("\nattach", "\nclass Refund(Base):\n    __tablename__ = 'refunds'\n"
                       "    id: Mapped[str] = mapped_column(String(36), primary_key=True)\n\nattach")  # fmt: skip


@pytest.fixture
def alembic(tmp_path, sync_database):
    """`alembic(...)` runs the command in a fresh project of a user's; returns what it printed."""

    def run(*arguments, fails=False):
        command = [sys.executable, "-W", "error", "-m", "alembic", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("init", "migrations")
    ini, env = tmp_path / "alembic.ini", tmp_path / "migrations" / "env.py"
    ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", sync_database))
    env.write_text(
        env.read_text().replace("target_metadata = None", "from models import Base\ntarget_metadata = Base.metadata")
    )
    (tmp_path / "models.py").write_text(MODELS)
    return run


def test_autogenerate_makes_one_chain(alembic, tmp_path):
    """H100: our tables come in the user's own revision, `alembic check` is clean, and there is one head."""
    assert "txp_outbox" in alembic("revision", "--autogenerate", "-m", "first")
    alembic("upgrade", "head")
    alembic("check")
    assert len(alembic("heads").strip().splitlines()) == 1
    (tmp_path / "models.py").write_text(LATER)
    alembic("check", fails=True)
    made = alembic("revision", "--autogenerate", "-m", "second")
    assert "refunds" in made
    assert "txp_" not in made  # the second revision is the user's change alone
    alembic("upgrade", "head")
    alembic("check")
    assert len(alembic("heads").strip().splitlines()) == 1


class HalfPast(SystemClock):
    """The real clock, moved ahead to half past: in an hour's last minute fewer partitions are enough."""

    def __init__(self):
        self.offset = timedelta(minutes=(90 - datetime.now(UTC).minute) % 60)


def keep_sent(url):
    """Do what a relay with keep_sent does to the tables; gives the partitions that there are then."""

    async def work():
        async with Database(url, clock=HalfPast()) as store:
            kept = KeptMessages(store, timedelta(days=1))
            await kept.prepare()
            await kept.forget(1)
            while not store.is_sqlite and len(await store.read(_partitions)) < _PARTITIONS:
                await kept.forget(1)  # on a busy machine a lock may not come in time: then it is tried again

    asyncio.run(work())
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [] if sync_side(engine).dialect.name == "sqlite" else _partitions(connection)
    engine.dispose()
    return found


_PARTITIONS = 3  # the default, that of this hour and that of the next


def _partitions(connection):
    query = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
    return list(connection.exec_driver_sql(query).scalars())


def test_partitions_are_left_alone(alembic, tmp_path, sync_database):
    """H28, H100: autogenerate of an unchanged env.py neither drops the relay's partitions nor alters their parent."""
    alembic("revision", "--autogenerate", "-m", "first")
    (first,) = (tmp_path / "migrations" / "versions").glob("*.py")
    assert "postgresql_partition_by='RANGE (sent_at)'" in first.read_text()
    alembic("upgrade", "head")
    partitions = keep_sent(sync_database)
    assert len(partitions) == (0 if sync_database.startswith("sqlite") else _PARTITIONS)
    alembic("check")
    alembic("downgrade", "base")  # the partitions go with their table
    alembic("upgrade", "head")
    assert len(keep_sent(sync_database)) == len(partitions)
    alembic("check")


def test_a_generated_migration_needs_no_import_of_ours(alembic, tmp_path):
    """H100: a migration from years ago still runs when our modules have moved."""
    alembic("revision", "--autogenerate", "-m", "first")
    (revision,) = (tmp_path / "migrations" / "versions").glob("*.py")
    assert "txpatterns" not in revision.read_text()


def test_both_ways_side_by_side(alembic, tmp_path, sync_database):
    """H100: with `txp db upgrade` the user's chain does not know our tables, and its autogenerate drops none."""
    (tmp_path / "models.py").write_text(MODELS.replace("attach(Base.metadata)", ""))
    env = tmp_path / "migrations" / "env.py"
    env.write_text(
        env.read_text()
        .replace("from models", "from txpatterns.database import not_ours\nfrom models")
        .replace("target_metadata=target_metadata", "target_metadata=target_metadata, include_name=not_ours")
    )
    script = (
        "import sqlalchemy as sa, sys\n"
        "from txpatterns.database import engines, migrations\n"
        "engine = sa.create_engine(sys.argv[1]); engines.prepare(engine)\n"
        "with engine.begin() as connection: migrations.upgrade(connection)\n"
    )
    subprocess.run([sys.executable, "-c", script, sync_database], check=True)
    made = alembic("revision", "--autogenerate", "-m", "first")
    assert "orders" in made
    assert "txp_" not in made
    alembic("upgrade", "head")
    alembic("check")


def test_the_schema_of_partitions_is_ours():
    """H28, H100: with `include_schemas`, too, nothing of ours is looked at."""
    assert not not_ours("txp_partitions", "schema", {})
    assert not not_ours("txp_outbox", "table", {"schema_name": None})
    assert not_ours("sales", "schema", {})
    assert not_ours(None, "schema", {})


def test_hiding_our_tables_beside_attached_ones(alembic, tmp_path):
    """H221, H100: both ways at once, as the pages show each: what is attached is not hidden, so made once."""
    env = tmp_path / "migrations" / "env.py"
    env.write_text(
        env.read_text()
        .replace("from models", "from txpatterns.database import not_ours\nfrom models")
        .replace("target_metadata=target_metadata", "target_metadata=target_metadata, include_name=not_ours")
    )
    assert "txp_outbox" in alembic("revision", "--autogenerate", "-m", "first")
    alembic("upgrade", "head")
    alembic("check")


def test_our_loggers_go_on_after_a_migration(alembic, tmp_path, sync_database):
    """H229: `fileConfig` of env.py disables every logger that is there; an App that starts then is not silent."""
    alembic("revision", "--autogenerate", "-m", "first")
    script = (
        "import asyncio, logging, sys\n"
        "from alembic import command, config\n"
        "from txpatterns import App\n"
        "app = App('quiet', sys.argv[1], 'memory://')\n"
        "command.upgrade(config.Config('alembic.ini'), 'head')\n"
        "asyncio.run(app.prepare())\n"
        "logging.getLogger('txpatterns.relay').warning('still heard')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, sync_database], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "still heard" in done.stderr
