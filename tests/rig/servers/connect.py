import json
import os
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import urlopen

from rig.jars import fetch, jars_of, java, java_version
from rig.lookup import Found, Missing
from rig.runners import Launch
from rig.servers.base import Server
from rig.servers.kafka import Kafka
from rig.watchdog import Watchdog

POM = Path(__file__).parent.parent / "connect" / "pom.xml"

WORKER = """\
bootstrap.servers={kafka}
listeners=http://127.0.0.1:{port}
offset.storage.file.filename={folder}/offsets
offset.flush.interval.ms=500
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
plugin.discovery=ONLY_SCAN
plugin.path={jars}
config.providers=file
config.providers.file.class=org.apache.kafka.common.config.provider.FileConfigProvider
"""


class Connect(Server):
    """Kafka Connect with Debezium's connector for PostgreSQL: one process, which keeps its place in a file."""

    name = "Connect"
    variable = "TXP_TEST_CONNECT_URL"
    remedy = "apt-get install -y maven  (it brings Java; the rig then fetches Connect and Debezium once)"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (URLError, ConnectionError)

    def __init__(self, found: Found, watchdog: Watchdog, kafka: Kafka, connector: dict[str, Any]) -> None:
        super().__init__(found, watchdog)
        self.kafka, self.connector = kafka, connector

    @classmethod
    def of(cls, kafka: Kafka, connector: dict[str, Any], watchdog: Watchdog) -> "Connect":
        """Connect for one connector, told as its REST interface would be."""
        return cls(Found("pip", str(cls.packaged())), watchdog, kafka, connector)

    @classmethod
    def installed(cls) -> Path:
        raise Missing("an installed one is not looked for")

    @classmethod
    def packaged(cls) -> Path:
        return jars_of(POM)

    @classmethod
    def provide(cls, found: Found) -> None:
        fetch(POM, Path(found.where))

    @property
    def own_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> Launch:
        worker, connector = self.folder / "worker.properties", self.folder / "connector.json"
        jars = self.found.where
        worker.write_text(
            WORKER.format(kafka=self.kafka.bootstrap, port=self.port, folder=self.folder, jars=os.path.dirname(jars))  # noqa: PTH120
        )
        connector.write_text(json.dumps(self.connector))
        memory = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        program = ["-cp", f"{jars}/*", "org.apache.kafka.connect.cli.ConnectStandalone"]
        return Launch([str(java()), *memory, *program, str(worker), str(connector)])

    def container(self) -> list[str]:
        raise Missing("no container of it is known")

    def probe(self) -> str:
        with urlopen(f"{self.url}/connectors/{self.connector['name']}/status", timeout=5) as answer:
            status = json.load(answer)
        states = {status["connector"]["state"], *(task["state"] for task in status["tasks"])}
        if "FAILED" in states:
            raise RuntimeError(f"the connector failed: {status}")
        if states != {"RUNNING"} or not status["tasks"]:
            raise ConnectionError(f"not running yet: {states}")
        with urlopen(self.url, timeout=5) as answer:
            return f"{json.load(answer)['version']} on Java {java_version(str(java()))}"
