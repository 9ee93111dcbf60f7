import functools
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives import serialization

from rig.jars import fetch, jars_of, java, java_version
from rig.lookup import Found, program
from rig.ports import free_port
from rig.runners import Launch
from rig.servers.base import Server
from rig.waiting import wait_until

POM = Path(__file__).parent.parent / "kafka" / "pom.xml"

CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured},ENCRYPTED://127.0.0.1:{encrypted},{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured},ENCRYPTED://127.0.0.1:{encrypted},{entrances}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_PLAINTEXT,ENCRYPTED:SASL_SSL,FIRST:PLAINTEXT,SECOND:PLAINTEXT
listener.name.secured.sasl.enabled.mechanisms=PLAIN
listener.name.secured.plain.sasl.jaas.config={login}
listener.name.encrypted.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.encrypted.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.encrypted.ssl.keystore.type=PEM
listener.name.encrypted.ssl.keystore.certificate.chain={chain}
listener.name.encrypted.ssl.keystore.key={key}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=6
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""

USER, PASSWORD = "shop", "pass%word/&?@:"
LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'


class Entrance(NamedTuple):
    """A listener whose clients are sent to a proxy: Kafka tells its clients itself where they should connect."""

    proxy: int
    """The port for the proxy to listen at."""
    behind: int
    """The port for it to lead to."""


def certificate_of(authority: trustme.CA) -> tuple[str, str]:
    """Give a certificate for this machine and its key, in the form that Java reads."""
    made = authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return "".join(part.bytes().decode() for part in made.cert_chain_pems), key.decode()


class Kafka(Server):
    """Apache Kafka, one node that is its own controller (KRaft)."""

    name = "Kafka"
    variable = "TXP_TEST_KAFKA_URL"
    image = "docker.io/apache/kafka:4.1.0"
    remedy = "apt-get install -y maven  (it brings Java; the rig then fetches Kafka once)"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (KafkaException,)

    @classmethod
    def installed(cls) -> Path:
        home = os.environ.get("KAFKA_HOME")
        start = program("kafka-server-start.sh", *([Path(home, "bin")] if home else []))
        java()
        return start.resolve().parent.parent / "libs"

    @classmethod
    def packaged(cls) -> Path:
        """The folder of Kafka's jars in the user's cache, where `provide` puts them with Maven."""
        return jars_of(POM)

    @property
    def own_url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def bootstrap(self) -> str:
        return self.url.removeprefix("kafka://")

    @classmethod
    def provide(cls, found: Found) -> None:
        if found.source == "pip":
            fetch(POM, Path(found.where))

    def prepare(self) -> Launch:
        return self.launch(self.cluster)

    @functools.cached_property
    def cluster(self) -> str:
        return secrets.token_urlsafe(16)

    @functools.cached_property
    def controller(self) -> int:
        """The port of the node's other role."""
        return free_port()

    def launch(self, cluster: str) -> Launch:
        """Format the data folder for a cluster; says how to start the node."""
        properties = self.folder / "server.properties"
        properties.write_text(self._configuration(self.controller, str(self.folder / "data")))
        runtime = java()
        classpath = ["-cp", f"{self.found.where}/*"]
        tool = [*classpath, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
        made = subprocess.run([runtime, *tool], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"Kafka's storage tool failed: {made.stdout}{made.stderr}")
        memory = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # small, and soon up
        return Launch([str(runtime), *memory, *classpath, "kafka.Kafka", str(properties)])

    def container(self) -> list[str]:
        assert self.image is not None
        ports = (self.port, self.secured_port, self.encrypted_port, *(each.behind for each in self.entrances))
        published = [part for port in ports for part in ("-p", f"127.0.0.1:{port}:{port}")]  # clients are sent there
        lines = self._configuration(19093, "/tmp/kafka-data").splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        for port in ports:
            settings["listeners"] = settings["listeners"].replace(f"127.0.0.1:{port}", f":{port}")
        environment = [f"KAFKA_{name.upper().replace('.', '_')}={value}" for name, value in settings.items()]
        return [*published, *(part for line in environment for part in ("-e", line)), self.image]

    def _configuration(self, controller: int, data: str) -> str:
        ports = {"port": self.port, "secured": self.secured_port, "encrypted": self.encrypted_port}
        chain, key = (part.strip().replace("\n", "\\n") for part in certificate_of(self._authority))
        named = dict(zip(("FIRST", "SECOND"), self.entrances, strict=True))
        ways = {
            "behind": ",".join(f"{name}://127.0.0.1:{each.behind}" for name, each in named.items()),
            "entrances": ",".join(f"{name}://127.0.0.1:{each.proxy}" for name, each in named.items()),
        }
        told = {"controller": controller, "data": data, "login": LOGIN, "chain": chain, "key": key}
        return CONFIGURATION.format(**ports, **ways, **told)

    @functools.cached_property
    def _authority(self) -> trustme.CA:
        return trustme.CA()

    @property
    def authority(self) -> Path:
        """The certificate of who vouches for the encrypted listener."""
        file = self.folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(file))
        return file

    @functools.cached_property
    def secured_port(self) -> int:
        """Where SASL PLAIN is asked for: the name `USER` and its `PASSWORD`."""
        return free_port()

    @functools.cached_property
    def encrypted_port(self) -> int:
        """Where TLS is spoken, and SCRAM-SHA-512 asked for; a test makes the user whom it needs."""
        return free_port()

    @functools.cached_property
    def entrances(self) -> tuple[Entrance, Entrance]:
        """Two ways in through a proxy each, so that one client can be cut off and the other goes on."""
        return Entrance(free_port(), free_port()), Entrance(free_port(), free_port())

    def probe(self) -> str:
        metadata = self.admin().list_topics(timeout=2)
        leaderless = any(part.leader < 0 for topic in metadata.topics.values() for part in topic.partitions.values())
        if leaderless or not metadata.brokers:
            raise KafkaException("not every partition has its leader back")
        return self._version

    @functools.cached_property
    def _version(self) -> str:
        """Read off the jar: the protocol does not tell it."""
        if self.found.source in {"environment", "container"}:
            return "of a version it does not tell"
        jar = next(Path(self.found.where).glob("kafka_*.jar")).stem
        return f"{jar.rpartition('-')[2]} on Java {java_version(str(java()))}"

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    @contextmanager
    def topics(self) -> Iterator["Topics"]:
        """Topics of a test's own, deleted afterwards."""
        topics = Topics(self)
        try:
            yield topics
        finally:
            self.heal()
            topics.delete()


class Topics:
    """Makes topics whose names no other test has. Its address is that of the server."""

    def __init__(self, server: Kafka) -> None:
        self.server = server
        self.bootstrap = server.bootstrap
        self.url = f"kafka://{server.bootstrap}"
        self._names: list[str] = []

    def create(
        self,
        name: str = "topic",
        *,
        partitions: int = 1,
        config: Mapping[str, str] | None = None,
        exactly: bool = False,
    ) -> str:
        """Make a topic and return its full name; ``exactly``: that is the name given. It can be written to at once."""
        full = name if exactly else f"{name}-{secrets.token_hex(4)}"
        topic = NewTopic(full, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        admin = self.server.admin()  # the result comes only while the client lives
        admin.create_topics([topic])[full].result(timeout=30)
        self._names.append(full)
        wait_until(lambda: _is_served(admin, full), what=f"the topic {full}")
        return full

    def delete(self) -> None:
        if self._names:
            admin = self.server.admin()
            for deleted in admin.delete_topics(self._names, operation_timeout=30).values():
                deleted.result(timeout=30)
            self._names.clear()


def _is_served(admin: AdminClient, topic: str) -> bool:
    """Whether the broker itself knows what the controller has made."""
    found = admin.list_topics(topic, timeout=10).topics[topic]
    return found.error is None and all(partition.leader >= 0 for partition in found.partitions.values())
