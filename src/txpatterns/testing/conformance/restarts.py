"""What outlives the server."""

from __future__ import annotations

import asyncio

from txpatterns.errors import BrokerUnavailable
from txpatterns.testing.conformance.suite import Suite
from txpatterns.testing.scenarios import Publishing, message, scenario
from txpatterns.transport import Broker, declare


class RestartsSuite(Suite):
    """What outlives the server."""

    async def read_stubbornly(self, broker: Broker, topic: str, wanted: set[str]) -> list[str]:
        """Read as a consumer does, which joins again as often as it is told that the broker is away."""
        came: dict[str, None] = {}
        while wanted - came.keys():
            try:
                async with self.reading(broker, topic, "suite") as reader:
                    while wanted - came.keys():
                        delivery = await reader.next()
                        await delivery.ack()
                        came[delivery.message.id] = None
            except BrokerUnavailable:  # it has just been started
                await asyncio.sleep(0.1)
        return list(came)

    @scenario
    async def test_what_is_confirmed_outlives_the_server(self) -> None:
        """P1: killed and started again, it has all that it had confirmed, and relay and members go on."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 20}") for n in range(50)]
        async with self.new_broker() as broker:
            self.needs(not broker.capabilities.confirms_handling, "messages of its own")
            declare(broker, "suite", [topic])
            await Publishing(broker, sent[:40]).confirmed()
            await asyncio.to_thread(self.restart)
            assert await self.publish_stubbornly(broker, sent[40:]) == []
            came = await self.read_stubbornly(broker, topic, {each.id for each in sent})
        for key in {each.key for each in sent}:
            mine = [each.id for each in sent if each.key == key]
            assert [one for one in came if one in mine] == mine
