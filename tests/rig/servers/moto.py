import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from rig.lookup import Missing
from rig.runners import Launch
from rig.servers.base import Server
from rig.servers.sqs import client


class Moto(Server):
    """SNS and SQS on the wire: topics, subscriptions, fan-out, policies. It keeps all in memory."""

    name = "moto"
    variable = "TXP_TEST_MOTO_URL"
    image = "docker.io/motoserver/moto:5.2.5"
    remedy = "pip install 'moto[server]'"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (BotoCoreError, ClientError)

    @classmethod
    def installed(cls) -> Path:
        raise Missing("moto is a package, not a program")

    @classmethod
    def packaged(cls) -> Path:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
            raise Missing("the package moto[server] is not installed")
        return Path(sys.executable)

    @property
    def own_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> Launch:
        return Launch([self.found.where, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)])

    def container(self) -> list[str]:
        assert self.image is not None
        return ["-p", f"127.0.0.1:{self.port}:5000", self.image]

    def probe(self) -> str:
        self.client("sns").list_topics()
        self.client("sqs").list_queues()
        return importlib.metadata.version("moto") if self.found.source == "pip" else "of a version it does not tell"

    def client(self, service: str) -> Any:
        return client(service, self.url)
