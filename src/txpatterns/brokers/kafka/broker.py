"""Apache Kafka as a broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Producer

from txpatterns.brokers.kafka.consumer import ConsumerThread
from txpatterns.brokers.kafka.examining import depths, examine
from txpatterns.brokers.kafka.failures import describe, error_of, translated
from txpatterns.brokers.kafka.intake import Intake, KafkaDelivery
from txpatterns.brokers.kafka.producer import KafkaPublisher
from txpatterns.brokers.kafka.settings import KafkaSettings, settings_from_url
from txpatterns.brokers.kafka.topics import Topics
from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import BrokerError, BrokerUnavailable, ConfigurationError
from txpatterns.findings import Finding
from txpatterns.messages import Message
from txpatterns.runtime.abandoning import in_thread
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.transport import Capabilities, Depth, Outcome

logger = logging.getLogger("txpatterns.kafka")

_LOOK_AGAIN = timedelta(seconds=5)


class KafkaBroker:
    """Publishes to Kafka and reads from it as members of groups.

    Publishing: idempotent, acknowledged by all in-sync replicas, in order per key; what is stored of a key is
    always a prefix of what was sent, because the first failure stops everything that is under way. The price: one
    message that only the broker finds too large makes its neighbours unknown, and they are sent again.

    Reading: offsets are committed up to the first message that is not acknowledged, never beyond. A message comes
    again after a crash, a rebalance or a lost partition, so handlers need an inbox.

    Keys go to partitions as Java's clients send them (murmur2). Belongs to one event loop from being entered until
    it is left. A forked child opens connections of its own.
    """

    def __init__(self, settings: KafkaSettings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.capabilities = Capabilities(
            ordered_prefix=True, max_batch=1000, max_payload=settings.max_payload, deadline=settings.deadline
        )
        self._clock: Clock = clock or SystemClock()
        self._topics = Topics(settings, self._clock)
        self._publisher = KafkaPublisher(settings, self._topics, self._clock)
        self.unread: dict[str, BrokerError] = {}
        """Topics of subscriptions that cannot be read now, with the reason; the others are read meanwhile."""
        forget_after_fork(self)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock | None = None, **options: object) -> KafkaBroker:
        """Make a broker of ``kafka://host:port,host:port?option=value``; keyword options are `KafkaSettings`'.

        Raises:
            ConfigurationError: the URL or an option is not understood.
            UnsafeSettings: an option would put the order of a key, or a message, at risk.
        """
        return cls(settings_from_url(url, **options), clock=clock)

    def __repr__(self) -> str:
        return f"KafkaBroker({self.settings.servers!r})"

    async def __aenter__(self) -> Self:
        """Check the driver's options; the connections are opened by the first use.

        Raises:
            ConfigurationError: the driver does not know an option.
        """
        for config in (self.settings.producer_config(), self.settings.consumer_config("check")):
            self._check(config)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._publisher.close()
        self._topics.begin_anew()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's producer alone, whose threads did not come along."""
        self._publisher.after_fork()
        self._topics.begin_anew()

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order; every id is told, at the latest when the deadline has passed.

        Rejected is only what was refused before it was sent (too large, no such topic) or failed with nothing else
        under way; otherwise a failure makes everything that is under way unknown.
        """
        return self._publisher.publish(messages)

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Nothing is to be done: Kafka keeps messages for groups that it does not know yet, too."""

    @asynccontextmanager
    async def _subscribe(
        self, topics: Sequence[str], group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[KafkaDelivery]]]:
        try:
            unusable = await self._topics.check(topics)
        except KafkaException as raised:
            raise BrokerUnavailable(f"Kafka does not answer. {self._masked(raised)}") from raised
        readable = [name for name in topics if name not in unusable]
        if not readable:
            name, error = next(iter(unusable.items()))
            raise translated(error, what=f"The topic {name} cannot be read")
        self._note_unread(topics, unusable)
        thread = ConsumerThread(readable, self.settings.consumer_config(group), self.settings, self._clock)
        intake = Intake(thread)
        intake.start()
        looking = asyncio.create_task(self._look_again(thread, topics), name="kafka topics")
        try:
            yield intake.batches()
        finally:
            looking.cancel()
            for name in topics:
                self.unread.pop(name, None)
            await intake.stop()

    async def _look_again(self, thread: ConsumerThread, topics: Sequence[str]) -> None:
        """Read the topics that can be read now, whenever that has changed: one that is missing may be made."""
        while not await self._clock.wait(asyncio.Event(), _LOOK_AGAIN):
            try:
                unusable = {**await self._topics.check(topics), **thread.refused()}
            except KafkaException as raised:
                logger.info("Kafka does not answer; topics are looked for again. %s", self._masked(raised))
                continue
            self._note_unread(topics, unusable)
            thread.read([name for name in topics if name not in unusable])

    def _note_unread(self, topics: Sequence[str], unusable: Mapping[str, KafkaError]) -> None:
        for name in topics:
            if name in unusable:
                self.unread[name] = translated(unusable[name], what=f"The topic {name} cannot be read")
            elif self.unread.pop(name, None) is not None:
                logger.info("the topic %s can be read", name)

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[KafkaDelivery]]]:
        """Join a group; without a commit of the group it starts at the first message that Kafka still has.

        A topic that does not exist or may not be read is told in the log, listed in ``unread`` and looked for again
        every five seconds, while the others are read.

        Raises:
            BrokerUnavailable: Kafka does not answer.
            BrokerError: none of the topics can be read.
        """
        return self._subscribe(topics, group)

    async def check(self, topics: Sequence[str], group: str | None = None) -> list[Finding]:
        """Look at topics, these and those in use, and at what the group needs; nothing is made or changed."""
        names = list(dict.fromkeys((*topics, *self._topics.used)))
        return await in_thread(lambda: examine(self.settings, names, group), name="txp-kafka-look")

    async def depths(self, topics: Sequence[str], group: str) -> list[Depth]:
        """Say how far a group is behind in each partition; what its members hold counts as waiting.

        Raises:
            BrokerUnavailable: Kafka does not answer.
        """
        try:
            return await in_thread(lambda: depths(self.settings, topics, group), name="txp-kafka-look")
        except KafkaException as raised:
            raise BrokerUnavailable(f"Kafka does not answer. {self._masked(raised)}") from raised

    def _check(self, config: Mapping[str, object]) -> None:
        bare = {name: value for name, value in config.items() if name != "bootstrap.servers"}
        try:
            Producer({**bare, "log_level": 0})  # it is gone with its last reference
        except KafkaException as raised:
            raise ConfigurationError(
                f"Kafka's client does not accept its options. {self._masked(raised)}",
                fix="Compare the option's name and value with librdkafka's CONFIGURATION.md.",
            ) from None

    def _masked(self, raised: KafkaException) -> str:
        return self.settings.mask(describe(error_of(raised)))
