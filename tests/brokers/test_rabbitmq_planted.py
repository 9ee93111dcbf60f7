"""The tests of RabbitMQ are tested: each guard taken out of the adapter turns the test red that names it."""

import asyncio
import inspect
from functools import partial
from itertools import cycle

import pytest

from brokers import test_rabbitmq_faults as faults
from rig.planting import instead_of
from txpatterns.brokers.rabbitmq import link, topology
from txpatterns.brokers.rabbitmq.intake import Intake
from txpatterns.brokers.rabbitmq.link import Channel
from txpatterns.brokers.rabbitmq.publisher import RabbitMQPublisher
from txpatterns.brokers.rabbitmq.sender import Sender
from txpatterns.brokers.rabbitmq.topology import Topology
from txpatterns.errors import BrokerUnavailable, TxPatternsError

RED = (AssertionError, pytest.fail.Exception, TimeoutError, TxPatternsError)


def a_limit_that_drops(patch):
    """H400: what RabbitMQ 3 takes for no limit, and RabbitMQ 4's default is near to."""
    patch.setitem(topology.QUEUE_ARGUMENTS, "x-delivery-limit", 1)


def another_prefetch_for_each_member(patch):
    """H401: a member has four queues."""
    prefetches, real = cycle((*4 * (200,), *4 * (5,))), Channel.consume

    @instead_of(patch, Channel, real)
    async def consume(self, queue, on_message, on_cancel, *, prefetch, priority):
        await real(self, queue, on_message, on_cancel, prefetch=next(prefetches), priority=priority)


def consumers_are_cancelled(patch):
    """H402: as the driver does."""
    patch.setattr(link, "_keep_consumers", lambda _: None)


def nobody_hears_of_a_cancelled_consumer(patch):
    """H403."""
    real = Channel.consume

    @instead_of(patch, Channel, real)
    async def consume(self, queue, on_message, on_cancel, *, prefetch, priority):
        await real(self, queue, on_message, lambda: None, prefetch=prefetch, priority=priority)


def after_a_silence(patch, does):
    """What a publisher does besides, given itself and its channel, when RabbitMQ has not confirmed in time."""
    real = RabbitMQPublisher._too_late

    @instead_of(patch, RabbitMQPublisher, real)
    def _too_late(self, batch, sender, alone):
        real(self, batch, sender, alone)
        does(self, sender)


def a_blocked_connection_is_given_up(patch):
    """H404."""
    after_a_silence(patch, lambda _, sender: sender.link.breaks(BrokerUnavailable("planted")))


def silence_ends_the_connection(patch):
    """H438."""

    def breaks(_, sender):
        if sender.link.blocked is None:
            sender.link.breaks(BrokerUnavailable("planted"))

    after_a_silence(patch, breaks)


def a_silent_topic_is_sent_with_the_others(patch):
    """H438."""
    after_a_silence(patch, lambda publisher, _: publisher._suspects.clear())


def what_comes_back_is_forgotten(patch):
    """H405, H407."""
    patch.setattr(Sender, "_came_back", lambda *_: None)


def a_new_queue_is_bound_at_once(patch):
    """H432."""
    patch.setattr(topology, "_WRITTEN_AFTER", 0.0)


def a_silent_queue_is_not_remembered(patch):
    """H434: so each member asks it again, and loses its connection."""
    patch.setattr(link, "_ANSWER_WITHIN", 4.0)
    real = Intake.read

    @instead_of(patch, Intake, real)
    async def read(self, topic):
        self._silent.clear()
        await real(self, topic)


def a_refused_topic_is_sent_with_the_others(patch):
    """H406."""
    patch.setattr(RabbitMQPublisher, "_learn", lambda *_: None)


def no_other_number_of_queues_is_looked_for(patch):
    """H408."""

    async def none(*_):
        return None

    patch.setattr(Topology, "other_size", none)


def name_of(shows):
    return getattr(shows, "func", shows).__name__


SILENT_QUEUE = partial(faults.test_a_queue_that_never_confirms_holds_up_its_topic_alone, count=20)
KILLED_SERVER = partial(faults.test_a_server_that_is_killed_just_after_a_queue_was_made_loses_nothing, partitions=4)
BUGS = [
    (a_limit_that_drops, faults.test_healthy_messages_outlive_many_crashes),
    (another_prefetch_for_each_member, faults.test_a_member_that_leaves_gives_back_before_the_next_one_begins),
    (consumers_are_cancelled, faults.test_a_member_that_waits_gets_nothing_before_what_the_other_gives_back),
    (nobody_hears_of_a_cancelled_consumer, faults.test_a_queue_that_is_deleted_is_noticed_and_made_again),
    (a_blocked_connection_is_given_up, faults.test_an_alarm_stops_publishing_and_stores_no_copies),
    (silence_ends_the_connection, SILENT_QUEUE),
    (a_silent_topic_is_sent_with_the_others, SILENT_QUEUE),
    (a_new_queue_is_bound_at_once, KILLED_SERVER),
    (a_silent_queue_is_not_remembered, faults.test_a_queue_without_a_leader_holds_up_itself_alone),
    (what_comes_back_is_forgotten, faults.test_a_topic_without_a_queue_waits_alone),
    (what_comes_back_is_forgotten, faults.test_a_return_is_matched_with_its_own_publication),
    (a_refused_topic_is_sent_with_the_others, faults.test_what_closes_the_channel_hurts_its_neighbours_once),
    (no_other_number_of_queues_is_looked_for, faults.test_another_number_of_queues_is_refused),
]


@pytest.mark.parametrize(("plant", "shows"), BUGS, ids=[f"{plant.__name__}-{name_of(shows)}" for plant, shows in BUGS])
async def test_planted_bugs(plant, shows, rabbitmq, own_rabbitmq, monkeypatch):
    """P1, P3, P7: a guard taken out is noticed by the test that names it."""
    given = {"rabbitmq": rabbitmq, "own_rabbitmq": own_rabbitmq, "monkeypatch": monkeypatch}
    asked = [name for name, each in inspect.signature(shows).parameters.items() if each.default is each.empty]
    plant(monkeypatch)
    with pytest.raises(RED):
        async with asyncio.timeout(30):  # what a bug keeps away does not come later either
            await shows(**{name: given[name] for name in asked})
