from pathlib import Path
from typing import ClassVar

import psycopg
from sqlalchemy import make_url

from rig.lookup import Found, Missing, find, program
from rig.runners import Launch
from rig.servers.base import Server
from rig.servers.postgres import Postgres
from rig.users import own_folder, unprivileged
from rig.watchdog import Watchdog

CONFIGURATION = """\
[databases]
* = {upstream}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
server_reset_query_always = 0
"""


class PgBouncer(Server):
    """PgBouncer in transaction mode in front of a PostgreSQL: another connection may serve each transaction."""

    name = "PgBouncer"
    variable = "TXP_TEST_PGBOUNCER_URL"
    remedy = "apt-get install -y pgbouncer"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (psycopg.OperationalError,)

    def __init__(self, found: Found, watchdog: Watchdog, postgres: Postgres) -> None:
        super().__init__(found, watchdog)
        self.postgres = postgres

    @classmethod
    def before(cls, postgres: Postgres, watchdog: Watchdog) -> "PgBouncer":
        return cls(find(cls), watchdog, postgres)

    @classmethod
    def installed(cls) -> Path:
        return program("pgbouncer", Path("/usr/sbin"))

    @classmethod
    def packaged(cls) -> Path:
        raise Missing("no pip package has it")

    @property
    def own_url(self) -> str:
        return make_url(self.postgres.url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def prepare(self) -> Launch:
        user = unprivileged()
        address = make_url(self.postgres.url)
        parts = {"host": address.host, "port": address.port, "user": address.username, "password": address.password}
        upstream = " ".join(f"{name}={value}" for name, value in parts.items() if value)
        settings = own_folder(self.folder / "settings", user) / "pgbouncer.ini"
        settings.write_text(CONFIGURATION.format(upstream=upstream, port=self.port))
        settings.chmod(0o644)
        return Launch([self.found.where, str(settings)], user=user)

    def container(self) -> list[str]:
        raise Missing("no container image of it is known")

    def probe(self) -> str:
        with psycopg.connect(self.url, connect_timeout=5, prepare_threshold=None) as connection:
            connection.execute("SELECT 1")
        admin = make_url(self.url).set(database="pgbouncer").render_as_string(hide_password=False)
        with psycopg.connect(admin, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            row = connection.execute("SHOW VERSION").fetchone()
        assert row is not None
        return str(row[0]).split()[-1]
