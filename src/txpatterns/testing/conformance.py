"""The tests that make a class a broker: subclass the suite, say how to make a broker, run pytest.

    class TestMyBroker(BrokerSuite):
        def new_broker(self) -> Broker:
            return MyBroker("my://localhost")

Each test is a plain function that runs its scenario in an event loop of its own, so no asyncio plugin is needed.
What a broker does not claim in its ``capabilities`` is not asked of it, and shown as skipped with that reason.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from txpatterns.messages import TOMBSTONE, Message, new_id
from txpatterns.testing.scenarios import Publishing, Reader, message, scenario
from txpatterns.transport import Broker, Verdict

__all__ = ["BrokerSuite", "Publishing", "Reader", "message", "scenario"]


class _Suite:
    """What a suite is told of the broker, and the tools of its tests."""

    patience: ClassVar[timedelta] = timedelta(seconds=60)
    """The longest that one test may take."""

    def new_broker(self) -> Broker:
        """Make a broker; all brokers of one test reach the same server. Nothing is connected yet."""
        raise NotImplementedError

    def new_topic(self) -> str:
        """Name a topic that no other test uses, and that can be used now."""
        return f"suite-{secrets.token_hex(6)}"

    async def declare(self, broker: Broker, group: str, topics: Sequence[str]) -> None:
        """Tell the broker of a group before anyone joins it, where a broker keeps messages only for known groups."""

    @asynccontextmanager
    async def reading(self, broker: Broker, topic: str, group: str) -> AsyncIterator[Reader]:
        """Join a group for a while."""
        async with broker.subscribe([topic], group=group) as batches:
            yield Reader(batches)

    async def publish_stubbornly(self, broker: Broker, messages: Sequence[Message]) -> list[str]:
        """Publish as the relay does, until each is confirmed, or rejected all by itself; gives the rejected ids."""
        rejected: list[str] = []
        waiting, alone = list(messages), False
        while waiting:
            sent = waiting[:1] if alone else waiting
            verdicts = await Publishing(broker, sent).verdicts()
            failed: set[str | None] = set()
            again: list[Message] = []
            for each, verdict in zip(sent, verdicts, strict=True):
                if each.key not in failed and verdict is Verdict.CONFIRMED:
                    continue
                if verdict is Verdict.REJECTED and len(sent) == 1:
                    rejected.append(each.id)
                    continue
                failed.add(each.key)
                again.append(each)
            alone = bool(again) and not alone
            waiting = again + waiting[len(sent) :]
        return rejected

    def needs(self, claimed: object, what: str) -> None:
        """Leave a test out for a broker that does not claim what it tests."""
        if not claimed:
            pytest.skip(f"the broker's capabilities leave out: {what}")


class _PublishingSuite(_Suite):
    """What leaves, in which order, and what is told of it."""

    @scenario
    async def test_a_message_arrives_as_it_was_sent(self) -> None:
        """Id, type, bytes, key, headers, content type and time are the same on the other side; a tombstone is one."""
        topic = self.new_topic()
        sent = Message(
            id=new_id(),
            topic=topic,
            type="order.placed",
            payload=bytes(range(256)),
            key="Zoë/东京 #1",
            headers={"traceparent": "00-ab-cd-01", "note": "né"},
            content_type="application/octet-stream",
            occurred_at=datetime(2024, 2, 29, 12, 30, 45, 123456, UTC),
        )
        bare = Message(new_id(), topic, "order.placed", b"", None)
        tombstone = Message(new_id(), topic, "order.forgotten", b"", "key", content_type=TOMBSTONE)
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            publishing = Publishing(broker, [sent, bare, tombstone])
            came = {d.message.id: d.message for d in await reader.take(3, ack=True)}
            await publishing.confirmed()
        assert came == {each.id: each for each in (sent, bare, tombstone)}

    @scenario
    async def test_order_is_kept_per_key(self) -> None:
        """P3, H23: the messages of one key come in the order in which they were sent, over several publications."""
        topic, keys = self.new_topic(), [f"key-{n}" for n in range(7)]
        sent = [message(topic, key) for _ in range(20) for key in keys]
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            for start in range(0, len(sent), 35):
                part = sent[start : start + 35]
                publishing = asyncio.create_task(self.publish_stubbornly(broker, part))
                came = await reader.until(each.id for each in part)
                await publishing
                for key in keys:
                    mine = [each.id for each in part if each.key == key]
                    assert [one for one in came if one in mine] == mine

    @scenario
    async def test_each_outcome_is_told_once(self) -> None:
        """H21: every id gets one outcome of its own, also in a batch of the largest size."""
        topic = self.new_topic()
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            sent = [message(topic, str(n)) for n in range(broker.capabilities.max_batch)]
            publishing = Publishing(broker, sent)
            await reader.until(each.id for each in sent)
            await publishing.confirmed()
            assert publishing.outcomes.keys() == {each.id for each in sent}

    @scenario
    async def test_nothing_published_is_nothing_told(self) -> None:
        """An empty batch is no error and has no outcome."""
        async with self.new_broker() as broker:
            assert await Publishing(broker, []).task == {}

    @scenario
    async def test_the_largest_message_is_taken_and_a_larger_one_rejected(self) -> None:
        """H26: ``max_payload`` is what it says, to the byte, and more is refused for good."""
        topic = self.new_topic()
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            limit = broker.capabilities.max_payload
            self.needs(limit, "a largest size")
            largest = message(topic, "k", payload=b"x" * ((limit or 0) - 1))
            assert largest.size == limit
            publishing = Publishing(broker, [largest])
            await reader.until([largest.id])
            await publishing.confirmed()
            larger = message(topic, "k", payload=b"x" * (limit or 0))
            assert await Publishing(broker, [larger]).verdicts() == [Verdict.REJECTED]

    @scenario
    async def test_one_message_too_large_in_a_batch(self) -> None:
        """P3, H23, H24: it is never confirmed, its neighbours arrive, and its key keeps its order."""
        topic = self.new_topic()
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            limit = broker.capabilities.max_payload
            self.needs(limit, "a largest size")
            poison = message(topic, "bad", payload=b"x" * ((limit or 0) + 1))
            before, after = message(topic, "bad"), message(topic, "bad")
            sent = [before, message(topic, "good"), poison, after, message(topic, "good"), message(topic)]
            publishing = asyncio.create_task(self.publish_stubbornly(broker, sent))
            came = await reader.until(each.id for each in sent if each is not poison)
            assert await publishing == [poison.id]
            assert poison.id not in came
            assert came.index(before.id) < came.index(after.id)
            assert came.index(sent[1].id) < came.index(sent[4].id)

    @scenario
    async def test_after_a_failure_nothing_of_the_key_is_stored(self) -> None:
        """H23: with an ordered prefix, what follows a failed message of its key in a batch is not confirmed."""
        topic = self.new_topic()
        async with self.new_broker() as broker:
            limit = broker.capabilities.max_payload
            self.needs(broker.capabilities.ordered_prefix and limit, "an ordered prefix and a largest size")
            sent = [message(topic, "bad", payload=b"x" * ((limit or 0) + 1)), message(topic, "bad")]
            assert Verdict.CONFIRMED not in await Publishing(broker, sent).verdicts()
            async with self.reading(broker, topic, "suite") as reader:
                mark = message(topic, "bad")
                publishing = Publishing(broker, [mark])
                assert await reader.until([mark.id]) == [mark.id]
                await publishing.confirmed()

    @scenario
    async def test_closing_twice_is_harmless(self) -> None:
        """A broker may be left more often than entered, and entered again."""
        topic = self.new_topic()
        sent = [message(topic, "key"), message(topic, "key")]
        broker = self.new_broker()
        for each in sent:
            async with broker, self.reading(broker, topic, "suite") as reader:
                publishing = Publishing(broker, [each])
                await reader.until([each.id])
                await publishing.confirmed()
            await broker.__aexit__(None, None, None)

    @scenario
    async def test_cancelling_a_publication_gives_up_waiting(self) -> None:
        """H6: what was not told is unknown; published again, everything arrives, in order per key."""
        topic = self.new_topic()
        sent = [message(topic, f"key-{n % 5}") for n in range(50)]
        async with self.new_broker() as broker:
            await self.declare(broker, "suite", [topic])
            given_up = Publishing(broker, sent)
            await asyncio.sleep(0)  # it has begun
            given_up.task.cancel()
            with suppress(asyncio.CancelledError):
                await given_up.task
            again = Publishing(broker, sent)
            async with self.reading(broker, topic, "suite") as reader:
                came = await reader.until(each.id for each in sent)
                await again.confirmed()
        for key in {each.key for each in sent}:
            mine = [each.id for each in sent if each.key == key]
            assert [one for one in came if one in mine] == mine


class _ReadingSuite(_Suite):
    """Who receives what, and what comes again."""

    @scenario
    async def test_a_group_gets_what_was_published_before_it_joined(self) -> None:
        """P1, H68: a group that joins for the first time starts at the beginning."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(5)]
        async with self.new_broker() as broker:
            await self.declare(broker, "late", [topic])
            publishing = Publishing(broker, sent)
            if not broker.capabilities.confirms_handling:
                await publishing.confirmed()
            async with self.reading(broker, topic, "late") as reader:
                assert await reader.until(each.id for each in sent) == [each.id for each in sent]
            await publishing.confirmed()

    @scenario
    async def test_each_group_gets_everything(self) -> None:
        """Two groups do not share their messages, and neither waits for the other."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(5)]
        ids = [each.id for each in sent]
        async with self.new_broker() as broker:
            self.needs(broker.capabilities.groups, "groups")
            async with self.reading(broker, topic, "one") as one, self.reading(broker, topic, "two") as two:
                publishing = Publishing(broker, sent)
                assert await one.until(ids) == ids
                assert await two.until(ids) == ids
                await publishing.confirmed()

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
    async def test_what_is_not_acknowledged_comes_again(self) -> None:
        """P1, H65: leaving a group gives back what was not acknowledged, in order."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(4)]
        ids = [each.id for each in sent]
        async with self.new_broker() as broker:
            await self.declare(broker, "suite", [topic])
            publishing = Publishing(broker, sent)
            async with self.reading(broker, topic, "suite") as reader:
                await reader.take(4, ack=False)
            async with self.reading(broker, topic, "suite") as reader:
                assert await reader.until(ids) == ids
            await publishing.confirmed()

    @scenario
    async def test_a_gap_in_the_acknowledgements_comes_again(self) -> None:
        """H65: acknowledging a later message never takes an earlier one with it."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(5)]
        async with self.new_broker() as broker:
            await self.declare(broker, "suite", [topic])
            publishing = Publishing(broker, sent)
            async with self.reading(broker, topic, "suite") as reader:
                taken = await reader.take(5, ack=False)
                for index in (3, 0, 1):
                    await taken[index].ack()
            async with self.reading(broker, topic, "suite") as reader:
                came = await reader.until([sent[2].id, sent[4].id])
                assert [one for one in came if one in (sent[2].id, sent[4].id)] == [sent[2].id, sent[4].id]
            await publishing.confirmed()

    @scenario
    async def test_nack_brings_a_message_again(self) -> None:
        """H67: it comes again by itself, and before any later message of its key that was not handed out yet."""
        topic = self.new_topic()
        first, second = message(topic, "key"), message(topic, "key")
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            publishing = Publishing(broker, [first])
            (delivery,) = await reader.take(1, ack=False)
            await delivery.nack()
            later = Publishing(broker, [second])
            came = await reader.take(2, ack=True)
            assert [d.message.id for d in came] == [first.id, second.id]
            await publishing.confirmed()
            await later.confirmed()

    @scenario
    async def test_nack_of_several_keeps_their_order(self) -> None:
        """P3: the messages of a key that are all given back come again in their order."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(3)]
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            publishing = Publishing(broker, sent)
            taken = await reader.take(3, ack=False)
            for delivery in taken:
                await delivery.nack()
            assert await reader.until(each.id for each in sent) == [each.id for each in sent]
            await publishing.confirmed()

    @scenario
    async def test_a_late_acknowledgement_is_harmless(self) -> None:
        """H66: whoever has lost a delivery may still acknowledge it, twice too; nothing happens, nothing is lost."""
        topic = self.new_topic()
        sent = message(topic, "key")
        async with self.new_broker() as broker:
            await self.declare(broker, "suite", [topic])
            publishing = Publishing(broker, [sent])
            async with self.reading(broker, topic, "suite") as reader:
                (stale,) = await reader.take(1, ack=False)
            await stale.ack()
            await stale.nack()
            async with self.reading(broker, topic, "suite") as reader:
                (again,) = await reader.take(1, ack=True)
                await again.ack()
                assert again.message.id == sent.id
            await publishing.confirmed()


class BrokerSuite(_PublishingSuite, _ReadingSuite):
    """What every broker must do. Override `new_broker`, and `new_topic` where topics have to be made first."""
