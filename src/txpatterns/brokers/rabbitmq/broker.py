"""RabbitMQ as a broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from txpatterns.brokers.rabbitmq.checks import depths_of, findings_of
from txpatterns.brokers.rabbitmq.failures import refused_of
from txpatterns.brokers.rabbitmq.intake import Intake, RabbitMQDelivery
from txpatterns.brokers.rabbitmq.link import Link, parameters_of
from txpatterns.brokers.rabbitmq.publisher import RabbitMQPublisher
from txpatterns.brokers.rabbitmq.settings import RabbitMQSettings, settings_from_url
from txpatterns.brokers.rabbitmq.topology import Topology
from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import BrokerError
from txpatterns.findings import Finding, Severity
from txpatterns.messages import Message, new_id
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.transport import Capabilities, Depth, Outcome

logger = logging.getLogger("txpatterns.rabbitmq")


class RabbitMQBroker:
    """Publishes to RabbitMQ and reads from it as members of groups.

    Publishing: persistent, confirmed by quorum queues, and told when no queue is bound. One message of a key is under
    way at a time, which keeps their order.

    Reading: a group has a few quorum queues for each topic, and each is with one member at a time; a key is always in
    the same one. A message comes again after a crash or a lost connection, so handlers need an inbox.

    Two kinds of connections, one for publishing and one for each subscription: an alarm that blocks publishing does
    not stop acknowledgements. Belongs to one event loop from being entered until it is left. A forked child opens
    connections of its own.
    """

    def __init__(self, settings: RabbitMQSettings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.capabilities = Capabilities(
            max_batch=500, max_payload=settings.max_payload, deadline=settings.deadline, retains=False
        )
        self._clock: Clock = clock or SystemClock()
        self._topology = Topology(settings)
        self._publisher = RabbitMQPublisher(settings, self._topology, self._clock)
        self._silent: dict[str, tuple[str, BrokerError]] = {}
        forget_after_fork(self)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock | None = None, **options: object) -> RabbitMQBroker:
        """Make a broker of ``amqp://user:password@host:5672/vhost``; keyword options are `RabbitMQSettings`'.

        Raises:
            ConfigurationError: the URL or an option is not understood.
            UnsafeSettings: an option would put a message at risk.
        """
        return cls(settings_from_url(url, **options), clock=clock)

    @property
    def unread(self) -> Mapping[str, Exception]:
        """Topics with a queue that does not answer, and why; their other queues are read."""
        return dict(self._silent.values())

    def __repr__(self) -> str:
        return f"RabbitMQBroker({self.settings.shown!r})"

    async def __aenter__(self) -> Self:
        """Check the URL; connections are opened by the first use.

        Raises:
            ConfigurationError: the driver does not understand it.
        """
        parameters_of(self.settings)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._publisher.close()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._publisher.begin_anew()

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order; every id is told, at the latest when the deadline has passed.

        A topic that no queue is bound for, that is missing or must not be used, is postponed. What RabbitMQ closes the
        channel for makes everything that is under way on it unknown.
        """
        return self._publisher.publish(messages)

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Say that a group is going to read these topics; its queues are made before anything is published to them.

        Raises:
            ConfigurationError: a name is too long for RabbitMQ, or one of its own.
        """
        for topic in topics:
            self._topology.refuse_names(group, topic)
        self._publisher.declared.setdefault(group, set()).update(topics)

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[RabbitMQDelivery]]]:
        """Join a group, whose queues are made if they are missing. Leaving gives back what is not acknowledged.

        A topic that must not be read, or whose queues are missing with ``declare=False``, is told in the log and tried
        again every five seconds, while the others are read.

        Raises:
            BrokerUnavailable: RabbitMQ does not answer.
            BrokerError: none of the topics can be read.
            ConfigurationError: the group has another number of queues for a topic.
        """
        return self._subscribe(topics, group)

    @asynccontextmanager
    async def _subscribe(
        self, topics: Sequence[str], group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[RabbitMQDelivery]]]:
        self.declare(group, topics)
        link = await Link(self.settings).open()
        try:
            intake = Intake(link, self._topology, group, new_id(), self._silent)
            missing = await self._read(intake, topics)
            watching = (
                asyncio.create_task(intake.watch(self._clock, missing), name="rabbitmq queues"),
                asyncio.create_task(intake.watch_silent(self._clock), name="rabbitmq silent queues"),
            )
            try:
                yield intake.batches()
            finally:
                for task in watching:
                    task.cancel()
        finally:
            # Never by cancelling: the next member would begin before what is not acknowledged has been given back.
            await asyncio.shield(link.close())

    async def _read(self, intake: Intake, topics: Sequence[str]) -> list[str]:
        refusals = await refused_of([intake.read(topic) for topic in topics])
        missing = {topic: refused for topic, refused in zip(topics, refusals, strict=True) if refused is not None}
        for topic, reason in missing.items():
            if len(missing) == len(topics):
                raise BrokerError(f"The topic {topic} cannot be read. {reason.message}", fix=reason.remedy)
            logger.error("the topic %s cannot be read, and is tried again: %s", topic, reason)
        return list(missing)

    async def check(self, topics: Sequence[str], group: str | None = None) -> Sequence[Finding]:
        """Look at the server, these topics and what the group needs to read them; nothing is made or changed."""
        try:
            link = await Link(self.settings).open()
        except BrokerError as error:
            return [Finding(Severity.ERROR, f"server {self.settings.shown}", error.message, error.remedy)]
        try:
            return await findings_of(link, self._topology, topics, group)
        except BrokerError as error:
            return [Finding(Severity.ERROR, f"server {self.settings.shown}", error.message, error.remedy)]
        finally:
            await link.close()

    async def depths(self, topics: Sequence[str], group: str) -> Sequence[Depth]:
        """Tell how much waits for a group in each of its queues, and how many members there are.

        Raises:
            BrokerUnavailable: RabbitMQ does not answer.
        """
        link = await Link(self.settings).open()
        try:
            return await depths_of(link, self._topology, topics, group)
        finally:
            await link.close()
