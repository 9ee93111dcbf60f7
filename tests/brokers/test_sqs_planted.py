"""The tests of SNS and SQS are tested: each guard taken out of the adapter turns the test red that names it."""

import asyncio
import json
from functools import partial

import pytest

from brokers import test_sqs_hazards as hazards
from rig.planting import instead_of
from txpatterns.brokers.sqs import broker, intake
from txpatterns.brokers.sqs.attempts import Attempt, Unanswered
from txpatterns.brokers.sqs.intake import Intake
from txpatterns.brokers.sqs.topology import Topology
from txpatterns.errors import TxPatternsError

RED = (AssertionError, pytest.fail.Exception, TimeoutError, TxPatternsError)


def each_request_is_a_new_attempt(patch):
    """H439."""
    patch.setattr(Unanswered, "next", lambda *_: Attempt())


def a_lost_answer_is_forgotten_with_its_subscription(patch):
    """H439."""
    patch.setattr(broker, "Intake", lambda calls, settings, queues, _: Intake(calls, settings, queues, Unanswered()))


def an_attempt_is_never_given_up(patch):
    """H439."""
    patch.setattr(intake, "_ATTEMPT_REFUSED", frozenset())


def leaving_waits_for_open_requests(patch):
    """H417."""
    real = Intake.leave

    @instead_of(patch, Intake, real)
    async def leave(self):
        self._left.set()
        while any(thread.is_alive() for thread in self._threads):  # noqa: ASYNC110 - threads
            await asyncio.sleep(0.01)
        await real(self)


def what_comes_after_leaving_is_kept(patch):
    """H417."""
    patch.setattr(Intake, "_change_now", lambda *_: [])


def queues_have_a_redrive_policy(patch):
    """H410: as most examples do."""
    real = Topology._queue_url

    @instead_of(patch, Topology, real)
    def _queue_url(self, name):
        url, sqs = real(self, name), self._calls.sqs
        dead = sqs.create_queue(QueueName=f"dead-{name}", Attributes={"FifoQueue": "true"})["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
        return url


LOST, REFUSED = hazards.test_an_answer_that_was_lost_is_asked_for_again, "InvalidParameterValue"
BUGS = {
    each_request_is_a_new_attempt: partial(LOST, lost=1),
    a_lost_answer_is_forgotten_with_its_subscription: partial(LOST, lost=3),
    an_attempt_is_never_given_up: partial(hazards.test_an_attempt_that_cannot_be_had_again_is_given_up, code=REFUSED),
    leaving_waits_for_open_requests: hazards.test_nobody_waits_for_a_request_that_waits_for_messages,
    what_comes_after_leaving_is_kept: hazards.test_nobody_waits_for_a_request_that_waits_for_messages,
    queues_have_a_redrive_policy: hazards.test_crashes_bury_no_healthy_message,
}


@pytest.mark.parametrize(("plant", "shows"), BUGS.items(), ids=[plant.__name__ for plant in BUGS])
async def test_planted_bugs(plant, shows, elasticmq, monkeypatch):
    """P1, P7: a guard taken out is noticed by the test that names it."""
    plant(monkeypatch)
    with pytest.raises(RED):
        async with asyncio.timeout(20):  # what a bug keeps away does not come within its visibility
            await shows(elasticmq)
