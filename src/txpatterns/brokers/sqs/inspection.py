"""A look at what is there: findings before use, and how much waits. Nothing is made or changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from txpatterns.brokers.sqs.calls import Calls, in_thread
from txpatterns.brokers.sqs.failures import AWAY, describe, is_missing, is_of_topic, unavailable
from txpatterns.brokers.sqs.settings import SqsSettings
from txpatterns.brokers.sqs.topology import aws_name, find_topic, subscription_of
from txpatterns.findings import Finding, Severity
from txpatterns.transport import Depth

_FEWEST_RECEIVES = 100
_SHORTEST = timedelta(days=7)


class Inspection:
    """Looks at topics and queues for one broker."""

    def __init__(self, settings: SqsSettings, calls: Calls) -> None:
        self._settings = settings
        self._calls = calls

    async def check(self, topics: Sequence[str], group: str | None) -> Sequence[Finding]:
        """Look at topics, and at what a group needs to read them."""
        findings: list[Finding] = []
        for topic in topics:
            try:
                findings += await in_thread(lambda topic=topic: list(self._look(topic, group)))  # type: ignore[misc]
            except AWAY as error:
                if not is_of_topic(error):  # the same for every topic, and each would take its time
                    words = f"It cannot be asked. {describe(error)}"
                    return [*findings, Finding(Severity.ERROR, "SNS and SQS", words, "Check address and credentials.")]
                findings.append(self._not_there(topic, error))
        return findings

    def _not_there(self, topic: str, error: Exception) -> Finding:
        if self._settings.create and is_missing(error):
            return Finding(Severity.INFO, f"topic {topic}", "It is not there yet; its first use makes it.")
        words = f"It cannot be used: {describe(error)}"
        fix = "Make it, allow it, or let the adapter make it: create=true."
        return Finding(Severity.ERROR, f"topic {topic}", words, fix)

    async def depths(self, topics: Sequence[str], group: str) -> Sequence[Depth]:
        """Tell how much waits for a group."""
        return await in_thread(lambda: [depth for topic in topics for depth in self._depth(topic, group)])

    # These run in threads.

    def _look(self, topic: str, group: str | None) -> Iterator[Finding]:
        arn = ""
        if self._settings.fan_out:
            name = self._settings.names.get(topic) or aws_name(topic, ordered=self._settings.ordered)
            arn = find_topic(self._calls.sns, name)
            told = self._calls.sns.get_topic_attributes(TopicArn=arn)["Attributes"]
            yield from self._of_kind(f"topic {topic}", told, "FifoTopic")
            if group is None:
                return
        name = self._queue_name(topic, group)
        attributes = self._attributes(name)
        yield from self._of_queue(f"queue {name}", attributes)
        if self._settings.fan_out:
            yield from self._of_subscription(f"queue {name}", arn, attributes["QueueArn"])

    def _of_kind(self, subject: str, told: Mapping[str, str], kind: str) -> Iterator[Finding]:
        if (told.get(kind, "false") == "true") is not self._settings.ordered:
            wanted = "FIFO" if self._settings.ordered else "standard"
            yield Finding(Severity.ERROR, subject, f"It is not a {wanted} one.", "Make another, or change ordered=.")
        if told.get("ContentBasedDeduplication", "false") == "true":
            words = "It leaves out messages with the same content, although they are different ones."
            yield Finding(Severity.ERROR, subject, words, "Set ContentBasedDeduplication to false.")

    def _of_queue(self, subject: str, told: Mapping[str, str]) -> Iterator[Finding]:
        yield from self._of_kind(subject, told, "FifoQueue")
        redrive = json.loads(told.get("RedrivePolicy") or "{}")
        receives = int(redrive.get("maxReceiveCount", _FEWEST_RECEIVES))
        if receives < _FEWEST_RECEIVES:
            words = f"After {receives} receives, crashes among them, healthy messages go to its dead-letter queue."
            yield Finding(Severity.WARNING, subject, words, "Set maxReceiveCount to 1000, or take the policy away.")
        kept = timedelta(seconds=int(told.get("MessageRetentionPeriod", 0)))
        if kept < _SHORTEST:
            words = f"It deletes what nobody has read after {kept}."
            yield Finding(Severity.WARNING, subject, words, "Set MessageRetentionPeriod to 1209600, 14 days.")

    def _of_subscription(self, subject: str, topic_arn: str, queue_arn: str) -> Iterator[Finding]:
        found = subscription_of(self._calls.sns, topic_arn, queue_arn)
        if found is None:
            words = "It is not subscribed to its topic: nothing comes."
            yield Finding(Severity.ERROR, subject, words, "Subscribe it with RawMessageDelivery, or use create=true.")
            return
        told = self._calls.sns.get_subscription_attributes(SubscriptionArn=found)["Attributes"]
        if told.get("RawMessageDelivery", "false") != "true":
            words = "Its subscription wraps messages; they are understood, and grow."
            yield Finding(Severity.WARNING, subject, words, "Set RawMessageDelivery of the subscription to true.")
        if told.get("FilterPolicy") not in (None, "", "{}"):
            words = "Its subscription has a filter policy: the group does not get everything."
            yield Finding(Severity.WARNING, subject, words, "Take the FilterPolicy away, unless it is meant.")

    def _depth(self, topic: str, group: str) -> Iterator[Depth]:
        name = self._queue_name(topic, group)
        try:
            told = self._attributes(name)
        except AWAY as error:
            if is_of_topic(error):
                return
            raise unavailable(error) from error
        ready, in_flight = (int(told.get(f"ApproximateNumberOfMessages{which}", 0)) for which in ("", "NotVisible"))
        yield Depth(topic, group, name, ready, in_flight)

    def _queue_name(self, topic: str, group: str | None) -> str:
        ours, text = (f"{group}/{topic}", f"{group}-{topic}") if self._settings.fan_out else (topic, topic)
        return self._settings.names.get(ours) or aws_name(text, ordered=self._settings.ordered)

    def _attributes(self, name: str) -> Mapping[str, str]:
        url = self._calls.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        told: Mapping[str, str] = self._calls.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])[
            "Attributes"
        ]
        return told
