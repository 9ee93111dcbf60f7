"""What several members of a group have at the same time, and what passes from one to the other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

from txpatterns.messages import Message
from txpatterns.testing.conformance.suite import Suite
from txpatterns.testing.scenarios import Publishing, Reader, message, scenario
from txpatterns.transport import Delivery

_QUIET = 0.2
"""Seconds without a delivery after which a member is taken to have all that it is given for now."""


class MembersSuite(Suite):
    """What several members of a group have at the same time, and what passes from one to the other."""

    @scenario
    async def test_members_of_a_group_share_its_messages(self) -> None:
        """Every message comes to some member, and each member sees each key in order."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 10}") for n in range(100)]
        missing = {each.id for each in sent}
        number = {each.id: index for index, each in enumerate(sent)}

        async def read(reader: Reader) -> list[Message]:
            mine: list[Message] = []
            while missing:
                delivery = await reader.next()
                await delivery.ack()
                mine.append(delivery.message)
                missing.discard(delivery.message.id)
            return mine

        async with (
            self.new_broker() as broker,
            self.reading(broker, topic, "suite") as one,
            self.reading(broker, topic, "suite") as two,
        ):
            publishing = Publishing(broker, sent)
            members = [asyncio.create_task(read(one)), asyncio.create_task(read(two))]
            done, waiting = await asyncio.wait(members, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await publishing.confirmed()
        for task in done:
            for key in {each.key for each in sent}:
                firsts = list(dict.fromkeys(number[m.id] for m in task.result() if m.key == key))
                assert firsts == sorted(firsts)

    @scenario
    async def test_a_key_is_with_one_member_at_a_time(self) -> None:
        """P3: while a member has something unacknowledged of a key, no other member is given anything of that key."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 6}") for n in range(60)]
        missing = {each.id for each in sent}
        async with (
            self.new_broker() as broker,
            self.reading(broker, topic, "suite") as one,
            self.reading(broker, topic, "suite") as two,
        ):
            publishing = asyncio.create_task(self.publish_stubbornly(broker, sent))
            members = [Holding(one), Holding(two)]
            try:
                while missing:
                    await asyncio.gather(*(member.quiet() for member in members))
                    mine, others = ({each.message.key for each in member.open} for member in members)
                    assert not mine & others, "two members have messages of one key at the same time"
                    for member in members:
                        missing -= await member.acknowledge()
                while not publishing.done():  # a copy may have come again
                    await asyncio.gather(*(member.quiet() for member in members))
                    await asyncio.gather(*(member.acknowledge() for member in members))
                assert await publishing == []
            finally:
                for member in members:
                    member.task.cancel()

    @scenario
    async def test_a_member_that_leaves_hands_over_in_order(self) -> None:
        """P1, P3, H66: what it had not acknowledged comes to the others at once, before what follows of the key."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 10}") for n in range(100)]
        left = asyncio.Event()

        async def publish() -> None:
            await self.publish_stubbornly(broker, sent[:50])
            await left.wait()
            await self.publish_stubbornly(broker, sent[50:])

        async with self.new_broker() as broker, AsyncExitStack() as stack:
            async with self.reading(broker, topic, "suite") as leaving:
                publishing = asyncio.create_task(publish())
                taken = await leaving.take(6, ack=False)
                for delivery in taken[:3]:
                    await delivery.ack()
                staying = await stack.enter_async_context(self.reading(broker, topic, "suite"))
            left.set()
            done = [delivery.message.id for delivery in taken[:3]]
            done += await staying.until(each.id for each in sent if each.id not in done)
            await publishing
        for key in {each.key for each in sent}:
            mine = [each.id for each in sent if each.key == key]
            assert [one for one in dict.fromkeys(done) if one in mine] == mine


class Holding:
    """A member that keeps what it is given, until it is told to acknowledge it."""

    def __init__(self, reader: Reader) -> None:
        self.open: list[Delivery] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: Reader) -> None:
        while True:
            delivery = await reader.next()
            self.open.append(delivery)  # to the list as it is now: waiting in the call would keep the one before
            self._news.set()

    async def quiet(self) -> None:
        """Wait until nothing has come for a while."""
        with suppress(TimeoutError):
            while True:
                self._news.clear()
                async with asyncio.timeout(_QUIET):
                    await self._news.wait()

    async def acknowledge(self) -> set[str]:
        """Acknowledge all that it has; gives the ids."""
        done, self.open = self.open, []
        for delivery in done:
            await delivery.ack()
        return {delivery.message.id for delivery in done}
