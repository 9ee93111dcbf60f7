"""Reading from RabbitMQ: what one member of a group was given, and takes over."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial

from txpatterns.brokers.rabbitmq.failures import Refused
from txpatterns.brokers.rabbitmq.link import Channel, Link, NoAnswer
from txpatterns.brokers.rabbitmq.topology import Topology, ranks
from txpatterns.brokers.rabbitmq.wire import Properties, from_amqp
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, BrokerUnavailable
from txpatterns.messages import Message

logger = logging.getLogger("txpatterns.rabbitmq")

PREFETCH = 200
"""A constant: a quorum queue puts what was given back behind what it has still to give out again, so a member with a
smaller one than that before it would get the messages of a key in another order."""

_LEADERLESS = "though RabbitMQ does: it has no leader."
_FIX = (
    "See that enough of its nodes run: rabbitmq-queues quorum_status. If all run and it stays so, the server was "
    "killed just after it had made the queue, which is empty: delete it, and it is made again."
)
_BATCH = 100
_LOOK_EVERY = timedelta(seconds=5)


class Intake:
    """One member's queues, each on a channel of its own."""

    def __init__(self, link: Link, topology: Topology, group: str, member: str) -> None:
        self._link = link
        self._topology = topology
        self._group = group
        self._member = member
        self._came: deque[RabbitMQDelivery] = deque()
        self._news = asyncio.Event()
        self._read: dict[str, Channel] = {}
        link.on_change.append(self._news.set)

    async def read(self, topic: str) -> None:
        """Begin to read a topic; what the group needs for it is made.

        Raises:
            Refused: it is not there, has other arguments, or must not be read.
            ConfigurationError: the group has another number of queues.
            BrokerUnavailable: RabbitMQ is away.
        """
        await self._topology.make_group(self._link, self._group, topic)
        for queue, rank in ranks(self._member, self._topology.queues(self._group, topic)):
            channel = await self._link.open_channel()
            channel.on_close = partial(self._closed, queue)
            try:
                await channel.consume(
                    queue,
                    partial(self._arrived, topic, channel),
                    partial(self._cancelled, queue),
                    prefetch=PREFETCH,
                    priority=rank,
                )
            except NoAnswer as error:
                raise BrokerUnavailable(f"The queue {queue} does not answer, {_LEADERLESS}", fix=_FIX) from error
            self._read[queue] = channel

    async def watch(self, clock: Clock, waiting: Sequence[str]) -> None:
        """Look at the queues from time to time, and try to read topics that could not be read."""
        missing = list(waiting)
        while not await clock.wait(asyncio.Event(), _LOOK_EVERY):
            try:
                for topic in list(missing):
                    try:
                        await self.read(topic)
                    except Refused as refused:
                        logger.debug("the topic %s cannot be read: %s", topic, refused)
                    else:
                        missing.remove(topic)
                        logger.info("the topic %s can be read", topic)
                async with self._link.channel() as channel:
                    for queue in self._read:
                        await channel.look_at_queue(queue)
            except BrokerError as error:  # the link has told the reader, unless one queue alone is gone
                self._link.breaks(BrokerUnavailable(f"RabbitMQ is lost to this member. {error}"))
                return

    async def batches(self) -> AsyncIterator[Sequence[RabbitMQDelivery]]:
        """Yield deliveries as they come, until the subscription is left.

        Raises:
            BrokerUnavailable: the connection or a queue was lost; subscribe again.
        """
        came = self._came
        while True:
            if self._link.broken is not None:  # what is not handed out comes again, to whoever has it then
                raise BrokerUnavailable(f"RabbitMQ was lost. {self._link.broken.message}") from self._link.broken
            if came:
                yield [came.popleft() for _ in range(min(len(came), _BATCH))]
            else:
                self._news.clear()
                await self._news.wait()

    def _arrived(
        self, topic: str, channel: Channel, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> None:
        self._came.append(RabbitMQDelivery(channel, tag, redelivered, from_amqp(topic, body, properties)))
        self._news.set()

    def _cancelled(self, queue: str) -> None:
        logger.warning("the queue %s was deleted, or moved: what was in it may be lost", queue)
        self._link.breaks(BrokerUnavailable(f"RabbitMQ gives nothing more of the queue {queue}: deleted, or moved."))

    def _closed(self, queue: str, error: BrokerError) -> None:
        self._link.breaks(BrokerUnavailable(f"RabbitMQ has closed the channel of the queue {queue}. {error.message}"))


class RabbitMQDelivery:
    """One message for this member of the group."""

    __slots__ = ("_channel", "_tag", "message", "redelivered")

    def __init__(self, channel: Channel, tag: int, redelivered: bool, message: Message) -> None:
        self._channel = channel
        self._tag = tag
        self.message = message
        self.redelivered = redelivered

    async def ack(self) -> None:
        """Tell RabbitMQ that it is done. Without effect if the delivery is no longer ours."""
        tag, self._tag = self._tag, 0  # twice would close the channel
        if tag:
            self._channel.acknowledge(tag)
