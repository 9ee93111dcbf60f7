"""What outlives the server."""

from __future__ import annotations

import asyncio

from txpatterns.testing.conformance.suite import Suite
from txpatterns.testing.scenarios import Publishing, message, scenario
from txpatterns.transport import declare


class RestartsSuite(Suite):
    """What outlives the server."""

    @scenario
    async def test_what_is_confirmed_outlives_the_server(self) -> None:
        """P1: killed and started again, it has all that it had confirmed, and relay and members go on."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 5}") for n in range(50)]
        async with self.new_broker() as broker:
            self.needs(not broker.capabilities.confirms_handling, "messages of its own")
            declare(broker, "suite", [topic])
            await Publishing(broker, sent[:40]).confirmed()
            await asyncio.to_thread(self.restart)
            assert await self.publish_stubbornly(broker, sent[40:]) == []
            async with self.reading(broker, topic, "suite") as reader:
                came = await reader.until(each.id for each in sent)
        for key in {each.key for each in sent}:
            mine = [each.id for each in sent if each.key == key]
            assert [one for one in came if one in mine] == mine
