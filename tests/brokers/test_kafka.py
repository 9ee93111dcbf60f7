import pytest

from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.testing.conformance import BrokerSuite


class TestKafka(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, kafka):
        self.kafka = kafka

    def new_broker(self):
        return KafkaBroker.from_url(self.kafka.url)

    def new_topic(self):
        return self.kafka.create("suite", partitions=3)
