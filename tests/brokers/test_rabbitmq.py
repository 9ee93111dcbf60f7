import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from txpatterns.brokers.rabbitmq import RabbitMQBroker
from txpatterns.testing.conformance import BrokerSuite


class TestRabbitMQ(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, rabbitmq, own_rabbitmq):
        self.rabbitmq = rabbitmq
        self.own = own_rabbitmq

    def new_broker(self):
        return RabbitMQBroker.from_url(self.rabbitmq.url)

    def closed_topic(self):
        return self.new_topic()  # nobody has declared that they read it

    def open_topic(self, topic):
        async def use():
            async with self.new_broker() as broker, broker.subscribe([topic], group="suite"):
                return

        with ThreadPoolExecutor() as threads:  # a loop of its own, as another process has
            threads.submit(asyncio.run, use()).result()

    def restart(self):
        self.own.kill()
        self.own.start()
