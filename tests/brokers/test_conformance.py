"""The suite finds what it is for: brokers that are wrong in one way, and runs that prove nothing."""

from collections import deque

import pytest

from txpatterns.brokers.memory import MemoryBroker
from txpatterns.brokers.memory_groups import Group, Lane
from txpatterns.testing.conformance import BrokerSuite


class Competing(MemoryBroker):
    """Gives a message to whichever member has room, whoever has the one before it."""

    def __init__(self):
        super().__init__(max_in_flight=5)

    def declare(self, group, topics):
        self._groups.setdefault(group, CompetingGroup(group))
        super().declare(group, topics)


class CompetingGroup(Group):
    def _lane_of(self, message):
        return Lane(None)


class Backwards(MemoryBroker):
    """Gives back the last first what a member leaves unacknowledged."""

    def declare(self, group, topics):
        self._groups.setdefault(group, BackwardsGroup(group))
        super().declare(group, topics)


class BackwardsGroup(Group):
    def leave(self, member):
        lanes = {item.lane for item in member.out}
        super().leave(member)
        for lane in lanes:
            lane.waiting = deque(sorted(lane.waiting, key=lambda item: -item.number))


def suite_of(broker):
    class Suite(BrokerSuite):
        def new_broker(self):
            return broker()

    return Suite


@pytest.mark.parametrize(
    ("broker", "test"),
    [
        (Competing, "test_a_key_is_with_one_member_at_a_time"),
        (Backwards, "test_a_member_that_leaves_hands_over_in_order"),
        (Backwards, "test_what_is_not_acknowledged_comes_again"),
    ],
)
def test_a_wrong_broker_is_found(broker, test):
    """P3: competing consumers, and what is given back in another order, break the order of a key."""
    right, wrong = suite_of(MemoryBroker)(), suite_of(broker)()
    getattr(right, test)()
    with pytest.raises(AssertionError):
        getattr(wrong, test)()


def test_a_run_in_which_all_is_left_out_is_no_pass():
    """A suite whose every test was skipped has shown nothing of the broker."""
    suite = suite_of(MemoryBroker)
    with pytest.raises(pytest.skip.Exception):
        suite().test_a_topic_that_takes_nothing_waits_alone()
    with pytest.raises(AssertionError, match="all 1 tests were left out"):
        suite.teardown_class()
    suite().test_nothing_published_is_nothing_told()
    suite.teardown_class()
