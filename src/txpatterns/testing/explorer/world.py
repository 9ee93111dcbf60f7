"""What outlives the processes of a case: a database and the broker's log. It can be set back to how it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from txpatterns.testing.explorer import ledger
from txpatterns.testing.explorer.wire import WireLog


class World(Protocol):
    """A database and a broker's log that belong to one worker of the explorer."""

    folder: Path
    url: str
    log: WireLog

    def begin(self) -> None:
        """Make everything empty."""

    def keep(self) -> None:
        """Remember the present state; ``restore`` comes back to it."""

    def restore(self) -> None:
        """Go back to the state of ``keep``. Nobody may be connected any more."""

    def locked(self) -> bool:
        """Whether a process keeps others from writing."""

    def waits(self) -> bool:
        """Whether a process waits for what another has locked. Asked only when something is locked."""

    def connection(self) -> Any:
        """Open a plain connection, as a context manager."""

    def close(self) -> None:
        """Let everything go."""


class SqliteWorld:
    """A file of its own, copied for each case."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "case.db"
        self.url = f"sqlite+aiosqlite:///{self.file}"
        self.log = WireLog(folder / "wire.log")

    def begin(self) -> None:
        self._delete(self.file)
        self.log.clear()

    def keep(self) -> None:
        with self.connection() as connection:
            ledger.install(connection)
            connection.commit()
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(self.file, self.folder / "kept.db")
        shutil.copyfile(self.log.path, self.folder / "kept.log")

    def restore(self) -> None:
        self._delete(self.file)
        shutil.copyfile(self.folder / "kept.db", self.file)
        shutil.copyfile(self.folder / "kept.log", self.log.path)

    def locked(self) -> bool:
        options = {"timeout": 0, "isolation_level": None}
        engine = sa.create_engine(f"sqlite:///{self.file}", poolclass=sa.NullPool, connect_args=options)
        with engine.connect() as connection:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except sa.exc.OperationalError:
                return True
        return False

    def waits(self) -> bool:
        return True  # the one lock is for all

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        engine = sa.create_engine(f"sqlite:///{self.file}", poolclass=sa.NullPool)
        with engine.connect() as connection:
            yield connection

    def close(self) -> None:
        self._delete(self.file)

    def _delete(self, file: Path) -> None:
        for ending in ("", "-wal", "-shm"):
            file.with_name(file.name + ending).unlink(missing_ok=True)


class PostgresWorld:
    """A database that is given, emptied for each case and filled again with what was kept."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.url = url
        self.log = WireLog(folder / "wire.log")
        plain = make_url(url).set(drivername="postgresql+psycopg")
        self._engine: Engine = sa.create_engine(plain, isolation_level="AUTOCOMMIT", pool_size=1)
        self._kept: dict[str, bytes] = {}
        self._sequences: dict[str, int] = {}

    def begin(self) -> None:
        with self.connection() as connection:
            self._end_others(connection)
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
        self.log.clear()

    def keep(self) -> None:
        with self.connection() as connection:
            self._end_others(connection)
            ledger.install(connection)
            driver: Any = connection.connection.driver_connection
            tables = connection.exec_driver_sql(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                "AND relkind IN ('r', 'p') AND NOT relispartition"  # a partition's rows are its table's
            )
            for table in tables.scalars():
                with driver.cursor().copy(f'COPY (SELECT * FROM "{table}") TO STDOUT') as copy:
                    self._kept[table] = b"".join(copy)
            rows = connection.exec_driver_sql(
                "SELECT sequencename, coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'public'"
            )
            self._sequences = {row[0]: row[1] for row in rows}
        shutil.copyfile(self.log.path, self.folder / "kept.log")

    def restore(self) -> None:
        with self.connection() as connection:
            self._end_others(connection)
            driver: Any = connection.connection.driver_connection
            empty = "".join(f'DELETE FROM "{table}";' for table in self._kept)
            # With replication's rights neither foreign keys nor our own triggers fire while rows are put back.
            connection.exec_driver_sql(f"BEGIN; SET LOCAL session_replication_role = replica; {empty}")
            for table, data in self._kept.items():
                if data:
                    with driver.cursor().copy(f'COPY "{table}" FROM STDIN') as copy:
                        copy.write(data)
            for sequence, value in self._sequences.items():
                connection.exec_driver_sql(f"SELECT setval('\"{sequence}\"', {max(value, 1)}, {value > 0})")
            connection.exec_driver_sql("COMMIT")
        shutil.copyfile(self.folder / "kept.log", self.log.path)

    def locked(self) -> bool:
        advisory = "SELECT 1 FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND locktype = 'advisory'"
        return self._is_there(
            "FROM pg_stat_activity WHERE datname = current_database() "
            f"AND (backend_xid IS NOT NULL OR EXISTS ({advisory}))"
        )

    def waits(self) -> bool:
        return self._is_there(
            "FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )

    def _is_there(self, what: str) -> bool:
        with self.connection() as connection:
            return bool(connection.exec_driver_sql(f"SELECT EXISTS (SELECT {what})").scalar())

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _end_others(self, connection: Connection) -> None:
        """End the sessions of processes that were killed, and wait until they are gone."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid, 5000) {others}")


def world_for(url: str, folder: Path) -> World:
    """Make the world for a database URL; ``sqlite`` alone stands for a throw-away file."""
    if make_url(url if "://" in url else f"{url}://").get_backend_name() == "sqlite":
        return SqliteWorld(folder)
    return PostgresWorld(folder, url)
