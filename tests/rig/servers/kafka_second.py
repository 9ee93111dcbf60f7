from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from rig.lookup import Missing
from rig.runners import Launch
from rig.servers.kafka import Kafka
from rig.watchdog import Watchdog

CONFIGURATION = """\
process.roles=broker
node.id={node}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""


class SecondKafka(Kafka):
    """Another node of a cluster, to be killed: partitions that only it has are without a leader then."""

    name = "Kafka-2"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (KafkaException,)
    node = 2

    def __init__(self, first: Kafka, watchdog: Watchdog) -> None:
        if first.found.source not in ("binary", "pip"):
            raise Missing(f"{first} is not run by us as a process, so it gets no second node")
        super().__init__(first.found, watchdog)
        self.first = first

    def prepare(self) -> Launch:
        return self.launch(self.first.cluster)

    def _configuration(self, controller: int, data: str) -> str:
        return CONFIGURATION.format(node=self.node, port=self.port, controller=self.first.controller, data=data)

    def probe(self) -> str:
        metadata = self.first.admin().list_topics(timeout=2)
        if self.node not in metadata.brokers:
            raise KafkaException("the second node has not joined")
        if any(part.leader < 0 for topic in metadata.topics.values() for part in topic.partitions.values()):
            raise KafkaException("not every partition has its leader back")
        return self.first.version

    def topic_of(self, server: Kafka, name: str) -> str:
        """Make a topic of one partition that only this node has, or only the first."""
        node = self.node if server is self else 1
        admin = self.first.admin()  # whose end would end what it was asked
        admin.create_topics([NewTopic(name, replica_assignment=[[node]], num_partitions=1)])[name].result(timeout=120)
        return name
