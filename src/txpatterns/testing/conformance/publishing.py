"""What leaves, in which order, and what is told of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from txpatterns.messages import TOMBSTONE, Message, new_id
from txpatterns.testing.conformance.suite import Suite
from txpatterns.testing.scenarios import Publishing, message, scenario
from txpatterns.transport import Verdict, declare


class PublishingSuite(Suite):
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
            declare(broker, "suite", [topic])
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

    @scenario
    async def test_what_a_message_may_hold(self) -> None:
        """P1: an empty body, zero bytes, long headers, a long key and every kind of letter come as they were sent."""
        topic, long = self.new_topic(), "x" * 1000
        broker = self.new_broker()
        headers = min(broker.capabilities.max_payload or 1_000_000, 100_000) // 2000
        sent = [
            message(topic, long, payload=b""),
            message(topic, "\t\N{PILE OF POO} ", payload=b"\x00\xff\x00"),
            message(topic, "headers", headers={f"name-{n}": long for n in range(headers)}),
            message(topic, "letters", headers={"note": "\u00e9\u6771\N{PILE OF POO}", "empty": ""}),
            message(topic, ""),
        ]
        async with broker, self.reading(broker, topic, "suite") as reader:
            publishing = Publishing(broker, sent)
            came = {d.message.id: d.message for d in await reader.take(len(sent), ack=True)}
            await publishing.confirmed()
        assert came == {each.id: each for each in sent}

    @scenario
    async def test_the_same_message_twice_at_once(self) -> None:
        """H6, H21: two relays may send one message: each is told what became of its own, and what follows comes."""
        topic = self.new_topic()
        sent, last = message(topic, "key"), message(topic, "key")
        async with self.new_broker() as broker, self.reading(broker, topic, "suite") as reader:
            both = [Publishing(broker, [sent]), Publishing(broker, [sent])]
            assert await reader.until([sent.id]) == [sent.id]
            following = Publishing(broker, [last])
            assert last.id in await reader.until([last.id])
            for publishing in (*both, following):
                await publishing.confirmed()

    @scenario
    async def test_a_topic_that_takes_nothing_waits_alone(self) -> None:
        """H63: it is postponed, not rejected, its neighbours are confirmed, and once it can be used all arrive."""
        closed, topic = self.closed_topic(), self.new_topic()
        sent = [message(closed, "key"), message(topic, "key"), message(closed, "key")]
        async with self.new_broker() as broker:
            declare(broker, "suite", [topic])
            postponed, confirmed = Verdict.POSTPONED, Verdict.CONFIRMED
            assert await Publishing(broker, sent).verdicts() == [postponed, confirmed, postponed]
            self.open_topic(closed)
            for each in sent[::2]:
                while await Publishing(broker, [each]).verdicts() != [confirmed]:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.1)
            async with self.reading(broker, closed, "suite") as reader:
                assert await reader.until(each.id for each in sent[::2]) == [each.id for each in sent[::2]]
