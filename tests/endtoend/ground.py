"""What the processes of a run stand on: a database, a broker, and a network between that can be disturbed.

The processes are on two sides. Each side reaches each server through a proxy of its own, so that one side can be cut
off while the other goes on; whoever observes goes past the proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from endtoend.verdict import PARTITIONS, Record, read_topic
from rig.ports import port_of
from rig.proxy import Proxy
from rig.servers.base import Server
from rig.servers.elasticmq import ElasticMQ
from rig.servers.kafka import Kafka
from rig.servers.postgres import Postgres
from rig.servers.rabbitmq import RabbitMQ
from txpatterns.messages import new_id

SIDES = ("1", "2")


class Proxied(Protocol):
    """The fixture ``proxied``."""

    def __call__(self, port: int, *, listen: int = 0) -> Proxy: ...


@dataclass
class Ground:
    """A database and a broker as both sides reach them, and what can be done to either."""

    name: str
    topic: str = field(default_factory=lambda: f"counted-{new_id()}")
    database: str = ""
    """Where it is observed, past the proxies."""
    broker: str = ""
    databases: Mapping[str, str] = field(default_factory=dict)
    """The URL for each side."""
    brokers: Mapping[str, str] = field(default_factory=dict)
    links: dict[str, Proxy] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)
    mortal: list[Server] = field(default_factory=list)
    """Those of them that remember after a kill all that they promise to."""
    read_wire: Callable[[], list[Record]] | None = None
    """Reads what was published, of a broker that keeps it."""

    def environment(self, side: str) -> dict[str, str]:
        """What a process of a side is told."""
        return {"DATABASE": self.databases[side], "BROKER": self.brokers[side], "TOPIC": self.topic}


Take = Callable[[str], object]
"""Gives a fixture by its name: a server that no run needs is not started."""


@contextmanager
def lay(database: str, broker: str, take: Take, proxied: Proxied, folder: Path) -> Iterator[Ground]:
    """Lay the ground: ``database`` is ``sqlite`` or a driver of PostgreSQL's, ``broker`` a broker's name."""
    ground = Ground(f"{database} {broker}")
    with ExitStack() as stack:
        if database == "sqlite":
            ground.database = f"sqlite+aiosqlite:///{folder / 'shop.db'}"
            ground.databases = dict.fromkeys(SIDES, ground.database)
        else:
            _on_postgres(ground, database, take("own_postgres"), proxied, stack)
        if broker == "database":
            ground.broker = "database://"
            ground.brokers = dict.fromkeys(SIDES, ground.broker)
        else:
            {"kafka": _on_kafka, "rabbitmq": _on_rabbitmq, "sqs": _on_elasticmq}[broker](ground, take, proxied, stack)
        yield ground


def _on_postgres(ground: Ground, driver: str, server: object, proxied: Proxied, stack: ExitStack) -> None:
    assert isinstance(server, Postgres)
    made = stack.enter_context(server.database())
    proxies = _links(ground, "database", {side: proxied(server.port) for side in SIDES})
    ground.database = made.url(driver)
    ground.databases = {side: made.url(driver, port=proxy.port) for side, proxy in proxies.items()}
    ground.servers.append(server)
    ground.mortal.append(server)


def _on_kafka(ground: Ground, take: Take, proxied: Proxied, stack: ExitStack) -> None:
    server = take("own_kafka")
    assert isinstance(server, Kafka)
    ground.topic = topic = stack.enter_context(server.topics()).create("counted", partitions=PARTITIONS)
    ways = zip(SIDES, server.entrances, strict=True)
    proxies = _links(ground, "broker", {side: proxied(way.behind, listen=way.proxy) for side, way in ways})
    ground.broker = server.url
    ground.brokers = {side: f"kafka://127.0.0.1:{proxy.port}" for side, proxy in proxies.items()}
    ground.servers.append(server)
    ground.mortal.append(server)
    ground.read_wire = lambda: read_topic(server.bootstrap, topic)


def _on_rabbitmq(ground: Ground, take: Take, proxied: Proxied, stack: ExitStack) -> None:
    server = take("own_rabbitmq")
    assert isinstance(server, RabbitMQ)
    ground.broker = stack.enter_context(server.host()).url
    proxies = _links(ground, "broker", {side: proxied(server.port) for side in SIDES})
    ground.brokers = {side: _through(proxy, ground.broker) for side, proxy in proxies.items()}
    ground.servers.append(server)
    ground.mortal.append(server)


def _on_elasticmq(ground: Ground, take: Take, proxied: Proxied, stack: ExitStack) -> None:
    server = take("elasticmq")
    assert isinstance(server, ElasticMQ)
    where = "sqs://eu-central-1?fan_out=false&poll=1&visibility=6&endpoint="
    proxies = _links(ground, "broker", {side: proxied(port_of(server.url)) for side in SIDES})
    ground.broker = where + server.url
    ground.brokers = {side: where + _through(proxy, server.url) for side, proxy in proxies.items()}
    ground.servers.append(server)  # killed, it forgets which keys are with whom: no fault of ours that order is lost


def _links(ground: Ground, to: str, proxies: dict[str, Proxy]) -> dict[str, Proxy]:
    ground.links |= {f"{to} from side {side}": proxy for side, proxy in proxies.items()}
    return proxies


def _through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))
