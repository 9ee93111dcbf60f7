import os
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from rig.jars import fetch, jars_of, java, java_version
from rig.lookup import Found, Missing
from rig.runners import Launch
from rig.servers.base import Server
from rig.servers.sqs import client

POM = Path(__file__).parent.parent / "elasticmq" / "pom.xml"

CONFIGURATION = """\
include classpath("application.conf")
node-address {{ host = "127.0.0.1", port = {port} }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "{listen}", sqs-limits = strict }}
rest-stats {{ enabled = false }}
queues-storage {{ enabled = true, path = "{data}/queues.conf" }}
messages-storage {{ enabled = true, driver-class = "org.h2.Driver", uri = "jdbc:h2:{data}/messages;WRITE_DELAY=0" }}
"""


class ElasticMQ(Server):
    """SQS as AWS documents it: groups are locked, ids are remembered, limits are kept. Messages outlive a kill."""

    name = "ElasticMQ"
    variable = "TXP_TEST_ELASTICMQ_URL"
    image = "docker.io/softwaremill/elasticmq:1.6.14"
    remedy = "apt-get install -y maven  (it brings Java; the rig then fetches ElasticMQ once)"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (BotoCoreError, ClientError)

    @classmethod
    def installed(cls) -> Path:
        home = os.environ.get("ELASTICMQ_HOME")
        if home is None:
            raise Missing("ELASTICMQ_HOME, a folder of its jars, is not set")
        java()
        return Path(home)

    @classmethod
    def packaged(cls) -> Path:
        """The folder of its jars in the user's cache, where `provide` puts them with Maven."""
        return jars_of(POM)

    @classmethod
    def provide(cls, found: Found) -> None:
        if found.source == "pip":
            fetch(POM, Path(found.where))

    @property
    def own_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> Launch:
        configuration = self._configure(listen="127.0.0.1", data=str(self.folder))
        memory = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # small, and soon up
        program = ["-cp", f"{self.found.where}/*", "org.elasticmq.server.Main"]
        return Launch([str(java()), *memory, f"-Dconfig.file={configuration}", *program])

    def container(self) -> list[str]:
        assert self.image is not None
        configuration = self._configure(listen="0.0.0.0", data="/data")
        mounted = ["-v", f"{configuration}:/opt/elasticmq.conf:ro"]
        return ["-p", f"127.0.0.1:{self.port}:{self.port}", *mounted, self.image]

    def _configure(self, *, listen: str, data: str) -> Path:
        path = self.folder / "elasticmq.conf"
        path.write_text(CONFIGURATION.format(port=self.port, listen=listen, data=data))
        return path

    def probe(self) -> str:
        self.client().list_queues()
        if self.found.source in {"environment", "container"}:
            return "of a version it does not tell"
        jar = next(Path(self.found.where).glob("elasticmq-server_*.jar")).stem
        return f"{jar.rpartition('-')[2]} on Java {java_version(str(java()))}"

    def client(self) -> Any:
        return client("sqs", self.url)
