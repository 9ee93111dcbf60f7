import asyncio
from contextlib import suppress

import pytest

from txpatterns.brokers import broker_from_url
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.errors import ConfigurationError
from txpatterns.testing.conformance import BrokerSuite, Publishing, Reader, message
from txpatterns.transport import Verdict


class TestMemory(BrokerSuite):
    def new_broker(self):
        return MemoryBroker(max_payload=10_000)


async def settled():
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_topic_of_no_group_confirms_at_once():
    """P1: there is nobody to wait for."""
    async with MemoryBroker() as broker:
        await Publishing(broker, [message("t", "k"), message("t")]).confirmed()


async def test_all_declared_groups_have_to_acknowledge():
    """P1, H21: a publication is confirmed by the last group, connected or not, and not before."""
    async with MemoryBroker() as broker:
        broker.declare("one", ["t"])
        broker.declare("two", ["t"])
        sent = [message("t", "k"), message("t", "k")]
        publishing = Publishing(broker, sent)
        async with broker.subscribe(["t"], group="one") as batches:
            await Reader(batches).take(2, ack=True)
        await settled()
        assert publishing.outcomes == {}
        async with broker.subscribe(["t"], group="two") as batches:
            reader = Reader(batches)
            await reader.take(1, ack=True)
            await settled()
            assert list(publishing.outcomes) == [sent[0].id]  # told as it comes, not with the last
            await reader.take(1, ack=True)
            await publishing.confirmed()


async def test_groups_that_nobody_reads_are_named():
    """P7: a process that does not run all groups must not relay, because nothing would ever be confirmed."""
    async with MemoryBroker() as broker:
        broker.declare("whole", ["a", "b"])
        broker.declare("half", ["a", "b"])
        assert broker.missing_groups() == ["half", "whole"]
        async with broker.subscribe(["a", "b"], group="whole"), broker.subscribe(["a"], group="half"):
            assert broker.missing_groups() == ["half"]
        assert broker.missing_groups() == ["half", "whole"]


async def test_what_is_given_up_is_taken_back():
    """H6: a cancelled publication reaches no handler later, and the next one takes its place."""
    async with MemoryBroker() as broker:
        broker.declare("g", ["t"])
        sent = [message("t", "k") for _ in range(3)]
        publishing = Publishing(broker, sent)
        await settled()
        publishing.task.cancel()
        with suppress(asyncio.CancelledError):
            await publishing.task
        again = Publishing(broker, sent[:1])
        async with broker.subscribe(["t"], group="g") as batches:
            assert [d.message for d in await Reader(batches).take(1, ack=True)] == sent[:1]
            await again.confirmed()
            one_more = Publishing(broker, [message("t", "k")])
            assert (await Reader(batches).take(1, ack=True))[0].message not in sent
            await one_more.confirmed()


async def test_a_member_gets_no_more_than_it_can_hold():
    """I16: what is not acknowledged is bounded, and acknowledging makes room."""
    async with MemoryBroker(max_in_flight=5) as broker:
        publishing = Publishing(broker, [message("t", str(n)) for n in range(12)])
        async with broker.subscribe(["t"], group="g") as batches:
            await settled()
            held = []
            for _ in range(5):
                held.extend(await anext(batches)) if len(held) < 5 else None
            waiting = asyncio.create_task(anext(batches))
            await settled()
            assert len(held) == 5
            assert not waiting.done()
            await held[0].ack()
            assert len(await waiting) == 1
            publishing.task.cancel()


async def test_a_key_has_one_member_at_a_time():
    """P3: a second member gets nothing of a key while the first has something unacknowledged of it."""
    async with (
        MemoryBroker() as broker,
        broker.subscribe(["t"], group="g") as first,
        broker.subscribe(["t"], group="g") as second,
    ):
        one = Publishing(broker, [message("t", "k")])
        (mine,) = await anext(first)
        two = Publishing(broker, [message("t", "k")])
        others = asyncio.create_task(anext(second))
        await settled()
        assert not others.done()
        await mine.ack()
        (yours,) = await others
        await yours.ack()
        await one.confirmed()
        await two.confirmed()


async def test_a_member_that_leaves_gives_back_in_order():
    """P3: what it had comes before what is new, and is marked as given out before."""
    async with MemoryBroker() as broker:
        sent = [message("t", "k") for _ in range(4)]
        async with broker.subscribe(["t"], group="g") as batches:
            one = Publishing(broker, sent[:3])
            assert len(await anext(batches)) == 3
            two = Publishing(broker, sent[3:])
            await settled()
        async with broker.subscribe(["t"], group="g") as batches:
            came = await Reader(batches).take(4, ack=True)
        assert [d.message for d in came] == sent
        assert [d.redelivered for d in came] == [True, True, True, False]
        await one.confirmed()
        await two.confirmed()


def test_one_event_loop_at_a_time():
    """Two loops cannot share it while it is in use; one after the other can."""
    broker = MemoryBroker()

    async def use():
        async with broker:
            await Publishing(broker, [message("t")]).confirmed()

    async def use_from_another_loop():
        async with broker:
            with pytest.raises(ConfigurationError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, use())

    asyncio.run(use_from_another_loop())
    asyncio.run(use())


async def test_a_forked_child_begins_with_empty_groups():
    """P1, H38: what was published stays with the parent, which waits for it; the child may use it in its own loop."""
    broker = MemoryBroker()
    broker.declare("g", ["t"])

    async def use_in_child():
        broker.after_fork()
        async with broker:
            assert broker.missing_groups() == ["g"]
            publishing = Publishing(broker, [message("t", "k")])
            async with broker.subscribe(["t"], group="g") as batches:
                came = await Reader(batches).take(1, ack=True)
                await publishing.confirmed()
        return [delivery.message for delivery in came] == publishing.messages

    async with broker:
        Publishing(broker, [message("t", "k")])
        await settled()
        assert await asyncio.to_thread(asyncio.run, use_in_child())


async def test_too_large_stops_its_key():
    """H23: what follows a refused message of its key is not delivered."""
    async with MemoryBroker(max_payload=100) as broker:
        sent = [message("t", "k", payload=b"x" * 200), message("t", "k"), message("t", "other")]
        verdicts = await Publishing(broker, sent).verdicts()
        assert verdicts == [Verdict.REJECTED, Verdict.UNKNOWN, Verdict.CONFIRMED]


def test_the_url_has_nothing_behind_the_scheme():
    """A name or a host in the URL would promise what this broker does not do."""
    assert isinstance(broker_from_url("memory://"), MemoryBroker)
    with pytest.raises(ConfigurationError, match="no address"):
        broker_from_url("memory://somewhere")
