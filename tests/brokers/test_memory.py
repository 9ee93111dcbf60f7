from txpatterns.brokers.memory import MemoryBroker
from txpatterns.testing.conformance import BrokerSuite


class TestMemory(BrokerSuite):
    def new_broker(self):
        return MemoryBroker(max_payload=10_000)

    async def declare(self, broker, group, topics):
        broker.declare(group, topics)
