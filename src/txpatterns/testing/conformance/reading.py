"""Who receives what, and what comes again."""

from __future__ import annotations

from txpatterns.testing.conformance.suite import Suite
from txpatterns.testing.scenarios import Publishing, message, scenario
from txpatterns.transport import declare


class ReadingSuite(Suite):
    """Who receives what, and what comes again."""

    @scenario
    async def test_a_group_gets_what_was_published_before_it_joined(self) -> None:
        """P1, H68: a group that was declared and joins for the first time starts at the beginning."""
        topic = self.new_topic()
        sent = [message(topic, "key") for _ in range(5)]
        async with self.new_broker() as broker:
            declare(broker, "late", [topic])
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
    async def test_a_new_group_gets_what_the_broker_retains(self) -> None:
        """P1, H68: what was published before a group was declared reaches it where ``retains`` says so, only there."""
        topic = self.new_topic()
        before, after = message(topic, "key"), message(topic, "key")
        async with self.new_broker() as broker:
            self.needs(broker.capabilities.groups, "groups")
            async with self.reading(broker, topic, "one") as one:
                publishing = Publishing(broker, [before])
                await one.until([before.id])
                await publishing.confirmed()
                async with self.reading(broker, topic, "two") as two:
                    publishing = Publishing(broker, [after])
                    assert (before.id in await two.until([after.id])) == broker.capabilities.retains
                    await one.until([after.id])
                    await publishing.confirmed()

    @scenario
    async def test_what_is_not_acknowledged_comes_again(self) -> None:
        """P1, H65: leaving a group gives back what was not acknowledged, in order."""
        topic = self.new_topic()
        async with self.new_broker() as broker:
            sent = self.together(broker, topic, 4)
            ids = [each.id for each in sent]
            declare(broker, "suite", [topic])
            publishing = Publishing(broker, sent)
            async with self.reading(broker, topic, "suite") as reader:
                await reader.take(4, ack=False)
            async with self.reading(broker, topic, "suite") as reader:
                came = await reader.until(ids)
                assert came == ids if broker.capabilities.pipelines_keys else set(came) == set(ids)
            await publishing.confirmed()

    @scenario
    async def test_a_gap_in_the_acknowledgements_comes_again(self) -> None:
        """H65: acknowledging a later message never takes an earlier one with it."""
        topic = self.new_topic()
        async with self.new_broker() as broker:
            sent = self.together(broker, topic, 5)
            declare(broker, "suite", [topic])
            publishing = Publishing(broker, sent)
            async with self.reading(broker, topic, "suite") as reader:
                by_id = {each.message.id: each for each in await reader.take(5, ack=False)}
                taken = [by_id[each.id] for each in sent]
                for index in (3, 0, 1):
                    await taken[index].ack()
            async with self.reading(broker, topic, "suite") as reader:
                came = await reader.until([sent[2].id, sent[4].id])
                left = [one for one in came if one in (sent[2].id, sent[4].id)]
                assert left == [sent[2].id, sent[4].id] or not broker.capabilities.pipelines_keys
            await publishing.confirmed()

    @scenario
    async def test_a_late_acknowledgement_is_harmless(self) -> None:
        """H66: whoever has lost a delivery may still acknowledge it, twice too; nothing happens, nothing is lost."""
        topic = self.new_topic()
        sent = message(topic, "key")
        async with self.new_broker() as broker:
            declare(broker, "suite", [topic])
            publishing = Publishing(broker, [sent])
            async with self.reading(broker, topic, "suite") as reader:
                (stale,) = await reader.take(1, ack=False)
            await stale.ack()
            await stale.ack()
            async with self.reading(broker, topic, "suite") as reader:
                (again,) = await reader.take(1, ack=True)
                await again.ack()
                assert again.message.id == sent.id
            await publishing.confirmed()
