"""Publishing to RabbitMQ: one connection, an outcome for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from txpatterns.brokers.rabbitmq.failures import Refused, refused_of
from txpatterns.brokers.rabbitmq.link import Link
from txpatterns.brokers.rabbitmq.sender import Batch, Sender
from txpatterns.brokers.rabbitmq.settings import LONGEST_NAME, RabbitMQSettings
from txpatterns.brokers.rabbitmq.topology import Topology
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, BrokerUnavailable, ConfigurationError, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import Outcome, Verdict

_SILENT = "See that its queues have a leader (rabbitmq-queues quorum_status); until they confirm it is tried by itself."

logger = logging.getLogger("txpatterns.rabbitmq")


class RabbitMQPublisher:
    """Publishes over one connection of its own, and opens a new one when it is lost.

    A topic for which RabbitMQ has closed the channel, or has not confirmed in time, is a suspect: it is tried when it
    comes by itself, with one message on a channel of its own, until that is confirmed. It must not make its neighbours
    unknown again and again; nor may more than a few messages lie before a queue that takes none, because RabbitMQ then
    reads nothing more from the connection.
    """

    def __init__(self, settings: RabbitMQSettings, topology: Topology, clock: Clock) -> None:
        self._settings = settings
        self._topology = topology
        self._clock = clock
        self._largest = settings.max_payload
        self._suspects: set[str] = set()
        self.declared: dict[str, set[str]] = {}
        """The topics of each group that was declared."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the connection without closing it: the next use may be in another event loop or process."""
        self._sender: Sender | None = None
        self._link: Link | None = None
        self._known: set[str] = set()
        self._made: set[tuple[str, str]] = set()
        self._opening = asyncio.Lock()
        self._topology.begin_anew()

    async def close(self) -> None:
        """Close the connection; what is open on it is unknown."""
        link = self._link
        self.begin_anew()
        if link is not None:
            await link.close()

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order, and tell outcomes as they come."""
        deadline = self._clock.monotonic() + self._settings.deadline.total_seconds()
        batch = Batch()
        batch.open.update((message.id, message.topic) for message in messages)
        sender: Sender | None = None
        alone = ""
        try:
            topics = list(dict.fromkeys(message.topic for message in messages))
            alone = topics[0] if len(topics) == 1 and topics[0] in self._suspects else ""
            if messages:
                sender, refused = await self._ready(topics, alone=bool(alone))
                sendable = self._without_refused(batch, messages, refused, alone)
                sender.send(batch, sendable, self._largest)
        except BrokerError as error:
            batch.tell_all(Outcome(Verdict.UNAVAILABLE, error))
        try:
            async for told in self._outcomes(batch, sender, deadline, alone):
                yield told
        finally:
            if sender is not None:
                self._judge(sender, batch, alone)

    async def _ready(self, topics: Sequence[str], *, alone: bool) -> tuple[Sender, dict[str, Outcome]]:
        """Give a channel to publish on, and what became of topics that cannot be published to now.

        Raises:
            BrokerUnavailable: RabbitMQ is away, or takes nothing now. Nothing was sent.
        """
        async with self._opening:
            if self._link is None or self._link.broken is not None:
                self._known.clear()
                self._made.clear()
                broken, self._sender, self._link = self._link, None, None
                if broken is not None:
                    await broken.close()  # it may be open still: only its answers were late
                self._link = await Link(self._settings).open()
            link = self._link
            if link.blocked is not None:
                raise BrokerUnavailable(
                    f"RabbitMQ takes nothing now: {link.blocked}",
                    fix="Free its memory or disk.",
                )
            if self._sender is None or not self._sender.is_open:
                self._sender = await Sender.on(link, self._topology)
            outcomes = await asyncio.gather(*(self._refusal(link, topic) for topic in topics))
            refused = {topic: outcome for topic, outcome in zip(topics, outcomes, strict=True) if outcome is not None}
            return (await Sender.on(link, self._topology) if alone else self._sender), refused

    async def _refusal(self, link: Link, topic: str) -> Outcome | None:
        """Make a topic and the declared groups that read it, if that is not done; says what it cannot be used for."""
        if len(self._topology.exchange(topic).encode(errors="surrogatepass")) > LONGEST_NAME:
            return Outcome(Verdict.REJECTED, PublishRejected("RabbitMQ cannot have a topic with so long a name."))
        try:
            if topic not in self._known:
                await self._topology.make_topic(link, topic)
                self._known.add(topic)
            readers = [group for group, topics in self.declared.items() if topic in topics]
            groups = [group for group in readers if (group, topic) not in self._made]
            # Together: each waits for its queues, and the topic waits for all.
            for refused in await refused_of([self._make_group(link, group, topic) for group in groups]):
                if refused is not None:
                    return Outcome(Verdict.POSTPONED, refused)
        except Refused as error:
            return Outcome(Verdict.POSTPONED, error)
        except UnicodeEncodeError:
            return Outcome(Verdict.REJECTED, PublishRejected("The topic's name is no text."))
        return None

    async def _make_group(self, link: Link, group: str, topic: str) -> None:
        """Make what a declared group needs; one that has its queues otherwise gets its messages in those."""
        try:
            await self._topology.make_group(link, group, topic)
        except ConfigurationError as error:
            logger.error("%s", error)
        self._made.add((group, topic))

    def _without_refused(
        self, batch: Batch, messages: Sequence[Message], refused: Mapping[str, Outcome], alone: str
    ) -> Sequence[Message]:
        suspects = self._suspects
        if not refused and not suspects:
            return messages
        wait = Outcome(Verdict.POSTPONED, BrokerError("RabbitMQ did not take this topic; it is tried by itself."))
        sendable: list[Message] = []
        for message in messages:
            if message.topic in refused:
                batch.tell(message.id, refused[message.topic])
            elif message.topic in suspects and (message.topic != alone or sendable):
                batch.tell(message.id, wait)
            else:
                sendable.append(message)
        return sendable

    async def _outcomes(
        self, batch: Batch, sender: Sender | None, deadline: float, alone: str
    ) -> AsyncIterator[Mapping[str, Outcome]]:
        while batch.open or batch.told:
            if batch.told:
                yield batch.take_told()
                continue
            batch.news.clear()
            left = max(deadline - self._clock.monotonic(), 0.0)
            if not await self._clock.wait(batch.news, timedelta(seconds=left)):
                self._too_late(batch, sender, alone)

    def _too_late(self, batch: Batch, sender: Sender | None, alone: str) -> None:
        late = BrokerError("RabbitMQ has not confirmed it in time.", fix=_SILENT)
        if sender is not None and sender.link.blocked is None:
            self._suspects.update(batch.open.values())
            if sender is self._sender:  # whoever comes next opens a channel, and finds out whether RabbitMQ answers
                self._sender = None
        # A blocked connection is kept: a new one would learn that it is by publishing only, and each time a copy of
        # what it sends is stored when the alarm ends.
        batch.tell_all(Outcome(Verdict.POSTPONED if alone else Verdict.UNKNOWN, late))

    def _judge(self, sender: Sender, batch: Batch, alone: str) -> None:
        """Learn from the end of a publication."""
        closed = sender.closed
        if isinstance(closed, Refused):
            self._learn(closed)
        if alone and batch.any_stored:
            self._suspects.discard(alone)
        if not batch.all_stored:  # a queue or an exchange may have been deleted: look again before the next use
            self._known.clear()
            self._made.clear()
        batch.open.clear()
        if sender is not self._sender and not sender.is_awaited:
            sender.close()

    def _learn(self, refused: Refused) -> None:
        if refused.largest is not None:
            self._largest = min(self._largest, refused.largest)
        if refused.exchange is not None and self._settings.exchange is None:
            self._suspects.add(refused.exchange)
