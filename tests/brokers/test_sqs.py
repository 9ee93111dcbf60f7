"""The conformance suite on both emulators: queues alone on ElasticMQ, topics and queues on moto."""

from datetime import timedelta

import pytest

from txpatterns.brokers.sqs import SqsBroker
from txpatterns.testing.conformance import BrokerSuite

FIFO = {"FifoQueue": "true"}


class TestElasticMQ(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, elasticmq, request):
        self.server, self.requests = elasticmq, request

    def new_broker(self):
        where = f"sqs://eu-central-1?fan_out=false&create=false&poll=1&endpoint={self.server.url}"
        return SqsBroker.from_url(where)

    def new_topic(self):
        topic = super().new_topic()
        self.open_topic(topic)
        return topic

    def closed_topic(self):
        return super().new_topic()

    def open_topic(self, topic):
        self.server.client().create_queue(QueueName=f"{topic}.fifo", Attributes=FIFO)


class TestMoto(BrokerSuite):
    """One receiver: moto looks which groups are locked and locks them in two steps, so two requests get the same."""

    patience = timedelta(minutes=5)  # it searches and copies its whole queue at each request

    @pytest.fixture(autouse=True)
    def server(self, moto):
        self.server = moto

    def new_broker(self):
        return SqsBroker.from_url(f"sqs://eu-central-1?poll=1&receivers=1&endpoint={self.server.url}")

    def test_a_key_is_with_one_member_at_a_time(self):
        pytest.skip("the suite has no server here that locks groups among members; ElasticMQ does")

    def test_a_member_that_leaves_hands_over_in_order(self):
        pytest.skip("the suite has no server here that locks groups among members; ElasticMQ does")

    def test_members_of_a_group_share_its_messages(self):
        pytest.skip("the suite has no server here that locks groups among members; ElasticMQ does")
