"""Topics, queues and what joins them: named, found, and made where they are missing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from txpatterns.brokers.sqs.calls import Calls, in_thread
from txpatterns.brokers.sqs.failures import AWAY, outcome_of_lookup
from txpatterns.brokers.sqs.settings import SqsSettings
from txpatterns.clock import Clock
from txpatterns.transport import Outcome

logger = logging.getLogger("txpatterns.sqs")

RETENTION = timedelta(days=14)
_LOOK_AGAIN = 1.0
_FIFO = ".fifo"
_HIGH_THROUGHPUT = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}


def aws_name(text: str, *, ordered: bool) -> str:
    """Give a name that AWS takes: letters, digits, - and _, at most 80; otherwise cleaned, with a digest."""
    suffix = _FIFO if ordered else ""
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", text)
    if clean != text or len(clean) + len(suffix) > 80:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
        clean = f"{clean[:60]}-{digest}"
    return f"{clean}{suffix}"


class Topology:
    """Knows where each topic is published to and read from. What it has to make is made once, in one go."""

    def __init__(self, settings: SqsSettings, calls: Calls, clock: Clock) -> None:
        self._settings = settings
        self._calls = calls
        self._clock = clock
        self._declared: dict[tuple[str, str], None] = {}
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was found: the next use may be in another loop, and somebody may have changed it."""
        self._targets: dict[str, str] = {}
        self._queues: dict[tuple[str, str], str] = {}
        self._missing: dict[str, tuple[Outcome, float]] = {}
        self._turn = asyncio.Lock()

    def declare(self, group: str, topics: Iterable[str]) -> None:
        """Note that a group is going to read topics."""
        self._declared.update(dict.fromkeys((group, topic) for topic in topics))

    def forget(self, topic: str) -> None:
        """Look for a topic anew: a request to it was refused."""
        self._targets.pop(topic, None)
        for place in [place for place in self._queues if place[1] == topic]:
            del self._queues[place]

    async def establish(self) -> None:
        """Make what is needed for the groups declared so far; what cannot be made is told, and tried again later."""
        for topic in dict.fromkeys(topic for _, topic in self._declared):
            refused = await self.refused([topic])
            for outcome in refused.values():
                logger.warning("the topic %s cannot be used now: %s", topic, outcome.error)

    async def refused(self, topics: Iterable[str]) -> dict[str, Outcome]:
        """Find topics, with the queues that their groups need, and give those that take nothing now, with the reason.

        A message that is published before its group's queue is there would never come to that group.
        """
        if all(self._is_ready(topic) for topic in topics):
            return {}
        refused: dict[str, Outcome] = {}
        async with self._turn:
            for topic in topics:
                outcome = None if self._is_ready(topic) else await self._find(topic)
                if outcome is not None:
                    refused[topic] = outcome
        return refused

    def target(self, topic: str) -> str:
        """Give where a topic that was found is published to: the ARN of a topic, or the URL of a queue."""
        return self._targets[topic]

    async def queues(self, group: str, topics: Sequence[str]) -> list[tuple[str, str]]:
        """Give the topics, each with the URL of the queue in which the group reads it.

        Raises:
            BotoCoreError, ClientError: one cannot be found or made.
        """
        self.declare(group, topics)
        async with self._turn:
            return [(topic, await self._queue(group, topic)) for topic in topics]

    def _is_ready(self, topic: str) -> bool:
        groups = [group for group, its in self._declared if its == topic]
        return topic in self._targets and all((group, topic) in self._queues for group in groups)

    async def _find(self, topic: str) -> Outcome | None:
        noted = self._missing.get(topic)
        if noted is not None and noted[1] + _LOOK_AGAIN > self._clock.monotonic():
            return noted[0]
        try:
            await self._target(topic)
            for group in [group for group, its in self._declared if its == topic]:
                await self._queue(group, topic)
        except AWAY as error:
            outcome = outcome_of_lookup(error, topic)
            self._missing[topic] = (outcome, self._clock.monotonic())
            return outcome
        self._missing.pop(topic, None)
        return None

    async def _target(self, topic: str) -> str:
        if topic not in self._targets:
            find = self._topic_arn if self._settings.fan_out else self._queue_url
            self._targets[topic] = await in_thread(lambda: find(self._name(topic)))
        return self._targets[topic]

    async def _queue(self, group: str, topic: str) -> str:
        if (group, topic) not in self._queues:
            target = await self._target(topic)
            if self._settings.fan_out:
                name = self._name(f"{group}/{topic}", f"{group}-{topic}")
                target = await in_thread(lambda: self._bound_queue(name, self._targets[topic]))
            self._queues[group, topic] = target
        return self._queues[group, topic]

    def _name(self, ours: str, text: str | None = None) -> str:
        return self._settings.names.get(ours) or aws_name(text or ours, ordered=self._settings.ordered)

    # These run in threads.

    def _topic_arn(self, name: str) -> str:
        sns = self._calls.sns
        if self._settings.create and not name.startswith("arn:"):
            fifo = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"} if self._settings.ordered else {}
            return str(sns.create_topic(Name=name, Attributes=fifo)["TopicArn"])
        return find_topic(sns, name)

    def _queue_url(self, name: str) -> str:
        sqs = self._calls.sqs
        try:
            return str(sqs.get_queue_url(QueueName=name)["QueueUrl"])
        except sqs.exceptions.QueueDoesNotExist:
            if not self._settings.create:
                raise
        attributes = {
            "MessageRetentionPeriod": str(int(RETENTION.total_seconds())),
            "VisibilityTimeout": str(int(self._settings.visibility.total_seconds())),
        }
        if self._settings.ordered:
            attributes |= {"FifoQueue": "true", **_HIGH_THROUGHPUT}
        logger.info("making the queue %s", name)
        return str(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def _bound_queue(self, name: str, topic_arn: str) -> str:
        url = self._queue_url(name)
        if not self._settings.create:
            return url
        sqs, sns = self._calls.sqs, self._calls.sns
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn", "Policy"])["Attributes"]
        arn = found["QueueArn"]
        if f'"{topic_arn}"' not in found.get("Policy", ""):
            policy = json.dumps(allowing(topic_arn, arn, found.get("Policy")))
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        if subscription_of(sns, topic_arn, arn) is None:
            raw = {"RawMessageDelivery": "true"}
            sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, Attributes=raw)
            logger.info("the queue %s has what is published to %s from now on", name, topic_arn)
        return url


def allowing(topic_arn: str, queue_arn: str, policy: str | None) -> dict[str, Any]:
    """Give a queue's policy with the right of one topic added to what it says."""
    said: dict[str, Any] = json.loads(policy) if policy else {"Version": "2012-10-17", "Statement": []}
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    before = said.get("Statement", [])
    return {**said, "Statement": [*(before if isinstance(before, list) else [before]), statement]}


def subscription_of(sns: Any, topic_arn: str, queue_arn: str) -> str | None:
    """Give the ARN of a queue's subscription to a topic; None without one."""
    for page in sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn):
        for found in page.get("Subscriptions", ()):
            if found.get("Endpoint") == queue_arn:
                return str(found["SubscriptionArn"])
    return None


def find_topic(sns: Any, name: str) -> str:
    """Give the ARN of a topic that is there.

    Raises:
        ClientError: there is none of that name.
    """
    if name.startswith("arn:"):
        return name
    for page in sns.get_paginator("list_topics").paginate():
        for found in page.get("Topics", ()):
            if found["TopicArn"].endswith(f":{name}"):
                return str(found["TopicArn"])
    absent = {"Error": {"Code": "NotFound", "Message": f"There is no topic {name}."}}
    raise sns.exceptions.NotFoundException(absent, "ListTopics")
