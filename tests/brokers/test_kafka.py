import pytest

from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.testing.conformance import BrokerSuite


class TestKafka(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, kafka, request):
        self.kafka, self.requests = kafka, request

    def new_broker(self):
        return KafkaBroker.from_url(self.kafka.url)

    def new_topic(self):
        return self.kafka.create("suite", partitions=3)

    def closed_topic(self):
        return f"{self.kafka.create()}-late"

    def open_topic(self, topic):
        self.kafka.create(topic, exactly=True)

    def restart(self):
        server = self.requests.getfixturevalue("own_kafka")
        server.kill()
        server.start()
