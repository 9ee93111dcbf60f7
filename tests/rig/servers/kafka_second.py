from contextlib import contextmanager
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

    @contextmanager
    def topic_of_its_own(self, name: str, partitions: int = 1):
        """A topic that only this node has."""
        admin = self.first.admin()
        topic = NewTopic(name, replica_assignment=[[self.node]] * partitions, num_partitions=partitions)
        admin.create_topics([topic])[name].result(timeout=30)
        try:
            yield name
        finally:
            admin.delete_topics([name], operation_timeout=30)[name].result(timeout=30)
