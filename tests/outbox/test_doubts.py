"""When silence counts against a message, and what is remembered of it."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import LOST, STORED, Decision, ScriptedBroker
from outbox.support import WAITING, OffsetClock, open_database, rows
from outbox.test_backlog import row
from outbox.test_relay import QUICK, drained, fill, running, until
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.hooks import Hooks, on
from txpatterns.messages import BUCKETS, Message
from txpatterns.outbox import Outbox, Relay
from txpatterns.outbox.moments import PublishFailed
from txpatterns.outbox.relay.doubts import Doubts

pytestmark = pytest.mark.one_driver

LASTING = replace(QUICK, lease=timedelta(minutes=5))
"""The lease ends when the test says so, on any machine."""
DEAD = sa.select(dead_letter_table)


@pytest.fixture
def clock():
    return OffsetClock()


@pytest.fixture
async def store(any_database, clock):
    async with open_database(any_database, clock=clock) as store:
        yield store


@pytest.fixture
def outbox(store):
    return Outbox(store)


class PartlySilent(ScriptedBroker):
    """Never answers for one message, and knows in which order it was given all."""

    def __init__(self, silent: str) -> None:
        super().__init__()
        self.silent = silent
        self.given: list[str] = []
        self.decide = self._answer

    def _answer(self, message: Message) -> Decision:
        self.given.append(message.id)
        return LOST if message.id == self.silent else STORED

    def silences(self, since: str) -> int:
        """How often the one was sent since another was confirmed."""
        return self.given[self.given.index(since) :].count(self.silent) if since in self.given else 0


class Failures(Hooks):
    """What was told of attempts that failed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @on(PublishFailed)
    def failed(self, moment: PublishFailed) -> None:
        self.told.append(moment.message.id)


async def test_doubts_outlive_a_lease_that_is_lost(store, outbox, clock):
    """P3, H24, H379: a relay that loses its lease between any two silences goes on counting; the third is the last."""
    (silent,) = (await fill(store, outbox, ["k"], 1))["k"]
    broker = PartlySilent(silent)
    relay = Relay(store, broker, settings=LASTING)
    async with running(relay):
        await until(lambda: silent in broker.given)
        for n in (1, 2):
            serving = relay._serving
            clock.offset += timedelta(hours=1)
            relay.rebalance()
            await until(lambda before=serving: relay._serving not in (None, before))
            (other,) = (await fill(store, outbox, [f"other{n}"], 1))[f"other{n}"]
            await until(lambda one=other: broker.silences(one))
        async with asyncio.timeout(120):
            while True:
                silences = broker.silences(other)
                if await rows(store, WAITING):
                    break
                assert silences == 1
                await asyncio.sleep(0.01)


async def test_what_another_relay_gets_confirmed_says_nothing_of_our_link(store, outbox):
    """P1, P3, H22, H26, H427: one relay gets no answer at all while another does: no attempt of its messages counts."""
    broken, sound = ScriptedBroker(), ScriptedBroker()
    broken.decide = lambda _: LOST
    failures, added = Failures(), {}
    cut_off = Relay(store, broken, settings=QUICK, hooks=failures)
    other = Relay(store, sound, settings=QUICK)
    async with running(other):
        async with running(cut_off):
            await until(lambda: all(len(relay._state.ownership.active) == BUCKETS // 2 for relay in (cut_off, other)))
            for n in range(6):  # twice as often as a message may be silent
                sent, confirmed = len(broken.calls), len(sound.wire)
                added |= await fill(store, outbox, [f"{n} {key}" for key in range(20)], 2)
                await until(lambda at=sent: len(broken.calls) > at)
                await until(lambda at=confirmed: len(sound.wire) > at)
        await drained(other)
    assert (failures.told, await rows(store, DEAD)) == ([], [])
    assert sound.first_of_key == added


def test_doubts_are_of_a_message_in_its_place_and_bounded():
    """H36, H251, H379: what an operator sends again begins anew, and what was given up by others is forgotten."""
    doubts = Doubts(most=2)
    first, second, third = (row(n, f"k{n}", 1) for n in (1, 2, 3))
    assert [doubts.add(first), doubts.add(first)] == [1, 1]
    doubts.confirmations += 1
    assert doubts.add(first) == 2
    assert doubts.add(replace(first, position=9)) == 1
    doubts.confirmations += 1
    assert [doubts.add(each) for each in (second, third, first)] == [1, 1, 1]
    doubts.confirmations += 1
    assert [doubts.add(third), doubts.add(first)] == [2, 2]
    doubts.forget([third])
    assert doubts.add(third) == 1
