"""The servers that the shop needs: how each is set up in a folder, started, asked whether it is there, and ended."""

from __future__ import annotations

import pwd
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypedDict
from urllib.parse import quote

from redis import Redis as Client
from redis.exceptions import RedisError

from shop.infra import places

USER = "shop"


class Broken(Exception):
    """A server could not be set up, or ended by itself; the text says what it said."""


class LocalServer(ABC):
    """One server with its data in a folder of its own. It is set up once, and goes on with what is there."""

    name: ClassVar[str]
    setting: ClassVar[str]
    """The shop's setting that names it."""
    stop_with: ClassVar[signal.Signals] = signal.SIGTERM
    user: str | None = None
    """Who runs it, where that is somebody else."""

    def __init__(self, folder: Path, password: str) -> None:
        self.folder, self.password = folder, password
        self.port = places.free_port()

    def prepare(self) -> None:
        """Set up what it needs in its folder; harmless when that is there already."""
        self.folder.mkdir(mode=0o700, exist_ok=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """What the shop is told."""

    @abstractmethod
    def commands(self) -> Sequence[Sequence[str]]:
        """The programs, each with its arguments, in the order of their start; the last is the server."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the programs are told beside their arguments."""
        return {}

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2):
                return True
        except OSError:
            return False

    def _write(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read."""
        return places.write_private(self.folder / name, text)

    def _run(self, *command: str, user: str | None = None) -> None:
        done = subprocess.run(  # noqa: S603 - programs of the server
            command, capture_output=True, text=True, cwd=self.folder.anchor, check=False, **as_user(user)
        )
        if done.returncode:
            raise Broken(f"{self.name} could not be set up: {(done.stderr or done.stdout).strip()[-500:]}")


class AsUser(TypedDict, total=False):
    """Arguments of ``subprocess``."""

    user: str
    group: int
    extra_groups: list[int]


def as_user(name: str | None) -> AsUser:
    """Give what makes a child process run as somebody else; nothing where it shall not."""
    return {} if name is None else {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


class Postgres(LocalServer):
    """PostgreSQL, with a login that takes the password."""

    name, setting = "PostgreSQL", "SHOP_DATABASE"
    stop_with = signal.SIGINT
    """Its fast way to end: without waiting for those who are connected."""

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder, password)
        self._programs, self.user = places.postgresql(), places.unprivileged()

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}:{self.password}@127.0.0.1:{self.port}/shop_{{service}}"

    def prepare(self) -> None:
        super().prepare()
        if self.user is not None:  # it must be able to reach its data, and nobody else
            for part in (self.folder.parent, *self.folder.parent.parents):
                if not part.stat().st_mode & 0o001 and part != self.folder.parent:
                    raise Broken(f"{self.user}, who runs PostgreSQL, cannot enter {part}: choose another --data.")
            self.folder.parent.chmod(0o711)
            shutil.chown(self.folder, self.user, pwd.getpwnam(self.user).pw_gid)
        if (self.folder / "data" / "PG_VERSION").exists():
            return
        words = self._write("password", self.password)
        if self.user is not None:
            shutil.chown(words, self.user)
        try:
            access = ["-A", "scram-sha-256", f"--pwfile={words}", "-U", USER]
            data = str(self.folder / "data")
            self._run(str(self._programs / "initdb"), *access, "-E", "UTF8", "--locale=C", "-D", data, user=self.user)
        finally:
            words.unlink()

    def commands(self) -> Sequence[Sequence[str]]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 300,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [[str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]]

    def is_up(self) -> bool:
        """Whether it takes connections: its port is open while it still recovers from a crash."""
        ask = self._programs / "pg_isready"
        if not ask.exists():
            return super().is_up()
        asked = [str(ask), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, cwd=self.folder.anchor).returncode == 0  # noqa: S603 - its program


class Redis(LocalServer):
    """Redis, which writes down what it is told."""

    name, setting = "Redis", "SHOP_REDIS"

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder, password)
        self._program = places.redis()

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        super().prepare()
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "save": '""',
            "requirepass": self.password,
        }
        self._write("redis.conf", "".join(f"{name} {value}\n" for name, value in options.items()))

    def commands(self) -> Sequence[Sequence[str]]:
        return [[str(self._program), str(self.folder / "redis.conf")]]

    def is_up(self) -> bool:
        try:
            with Client.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except RedisError:
            return False


class RabbitMQ(LocalServer):
    """RabbitMQ, with a port mapper, a cookie and a user of its own, so that no installed one is touched."""

    name, setting = "RabbitMQ", "SHOP_BROKER"

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder, password)
        self._program, self._mapper, self._nodes = places.rabbitmq(), places.free_port(), places.free_port()

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}/{quote('/', safe='')}"

    def prepare(self) -> None:
        super().prepare()
        lines = (
            f"listeners.tcp.default = 127.0.0.1:{self.port}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            "log.console = true",
            "log.console.level = warning",
        )
        self._write("rabbitmq.conf", "\n".join(lines) + "\n")
        self._write("rabbitmq-env.conf", "")
        self._write("enabled_plugins", "[].\n")

    def commands(self) -> Sequence[Sequence[str]]:
        # Before the node does: what it starts by itself would outlive it.
        return [["epmd", "-address", "127.0.0.1", "-port", str(self._mapper)], [str(self._program)]]

    @property
    def environment(self) -> Mapping[str, str]:
        files = {"CONF_ENV_FILE": "rabbitmq-env.conf", "CONFIG_FILE": "rabbitmq.conf", "PID_FILE": "pid"}
        folders = {"ENABLED_PLUGINS_FILE": "enabled_plugins", "MNESIA_BASE": "data", "LOG_BASE": "log"}
        return {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": "shop@localhost",
            "RABBITMQ_DIST_PORT": str(self._nodes),
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
            **{f"RABBITMQ_{name}": str(self.folder / file) for name, file in {**files, **folders}.items()},
        }

    def is_up(self) -> bool:
        """Whether it speaks AMQP: its port opens a little before it does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as line:
                line.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(line.recv(1))
        except OSError:
            return False


class Kafka(LocalServer):
    """Apache Kafka, one node that is its own controller. On loopback it asks nobody for a password."""

    name, setting = "Kafka", "SHOP_BROKER"

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder, password)
        self._programs, self._controller = places.kafka(), places.free_port()

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        super().prepare()
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        file = self._write("server.properties", text)
        if not (self.folder / "data" / "meta.properties").exists():
            tool = str(self._programs / "kafka-storage.sh")
            self._run(tool, "format", "-t", "c2hvcC1vZi10eHBhdHRlcg", "-c", str(file))

    def commands(self) -> Sequence[Sequence[str]]:
        return [[str(self._programs / "kafka-server-start.sh"), str(self.folder / "server.properties")]]

    @property
    def environment(self) -> Mapping[str, str]:
        return {"KAFKA_HEAP_OPTS": "-Xmx512m", "LOG_DIR": str(self.folder / "log")}
