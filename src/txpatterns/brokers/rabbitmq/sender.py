"""A confirming channel, and the publications that are under way on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from txpatterns.brokers.rabbitmq.link import Channel, Link
from txpatterns.brokers.rabbitmq.topology import Topology
from txpatterns.brokers.rabbitmq.wire import TAG, headers_of, refusal_of
from txpatterns.errors import BrokerError, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Outcome, Verdict


class Batch:
    """One publication: what is still open, and what was found out and is not told yet."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        """The ids of its messages of which nothing is known yet, with their topics."""
        self.told: dict[str, Outcome] = {}
        self.news = asyncio.Event()
        self.all_stored = True
        self.any_stored = False

    def tell(self, message_id: str, outcome: Outcome) -> None:
        """Say what became of a message; what comes later of the same one is not told."""
        if message_id not in self.open:
            return
        del self.open[message_id]
        self.told[message_id] = outcome
        self.all_stored = self.all_stored and outcome is CONFIRMED
        self.any_stored = self.any_stored or outcome is CONFIRMED
        self.news.set()

    def tell_all(self, outcome: Outcome) -> None:
        """The same for everything that is open."""
        for message_id in list(self.open):
            self.tell(message_id, outcome)

    def take_told(self) -> dict[str, Outcome]:
        """Give what was not told yet."""
        told, self.told = self.told, {}
        return told


class Sender:
    """One confirming channel: which of its tags is which message of which publication.

    It is used until the first error on it: then everything open is unknown.
    """

    def __init__(self, link: Link, channel: Channel, topology: Topology) -> None:
        self.link = link
        self._channel = channel
        self._topology = topology
        self._tag = 0
        self._open: dict[int, tuple[Batch, str]] = {}
        self._returned: dict[int, str] = {}
        channel.on_close = self._closed

    @classmethod
    async def on(cls, link: Link, topology: Topology) -> Self:
        """Open a confirming channel.

        Raises:
            BrokerError: RabbitMQ does not answer.
        """
        channel = await link.open_channel()
        sender = cls(link, channel, topology)
        await channel.confirm(sender._confirmed, sender._came_back)
        link.on_change.append(sender._look)
        return sender

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._channel.is_open

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a confirmation on it."""
        return any(message_id in batch.open for batch, message_id in self._open.values())

    @property
    def closed(self) -> BrokerError | None:
        """Why it cannot be used any more."""
        return self._channel.closed or self.link.broken

    def send(self, batch: Batch, messages: Iterable[Message], largest: int) -> None:
        """Send messages in order; what cannot be sent is told at once."""
        for message in messages:
            reason = refusal_of(message, largest)
            if reason is None:
                reason = self._send(batch, message)
            if reason is not None:
                batch.tell(message.id, Outcome(Verdict.REJECTED, PublishRejected(reason)))

    def _send(self, batch: Batch, message: Message) -> str | None:
        tag, topology = self._tag + 1, self._topology
        exchange = topology.exchange(message.topic)
        key = topology.routing_key(message.topic, message.type)
        named = (message.id if len(message.id) < 64 else "", message.content_type)
        try:
            self._channel.publish(exchange, key, message.payload, headers_of(message, tag), named)
        except BrokerError as error:
            batch.tell(message.id, Outcome(Verdict.UNKNOWN, error))
            return None
        except Exception as error:  # noqa: BLE001 - the driver's encoder raises what Python does
            return f"RabbitMQ cannot carry it: {type(error).__name__}."
        self._tag = tag
        self._open[tag] = (batch, message.id)
        return None

    def close(self) -> None:
        """End it; what is open is unknown."""
        self._end(BrokerError("Nobody waits for it any more."))
        self._channel.close()

    def _came_back(self, headers: Mapping[str, object], reason: str) -> None:
        """No queue is bound for it; its confirmation follows. By our own number, because an id may be sent twice."""
        self._returned[int(str(headers.get(TAG, 0)))] = reason

    def _confirmed(self, tag: int, all_before: bool, stored: bool) -> None:
        if all_before:
            tags: Sequence[int] = [one for one in self._open if one <= tag]  # they are in order
        else:
            tags = (tag,)
        returned = self._returned
        for one in tags:
            batch, message_id = self._open.pop(one, (None, ""))
            if batch is None:
                continue
            if not stored:
                batch.tell(message_id, _postponed("A queue did not take it."))
            elif returned and one in returned:
                batch.tell(message_id, _postponed(f"No queue is bound for it: {returned.pop(one)}"))
            else:
                batch.tell(message_id, CONFIRMED)

    def _closed(self, error: BrokerError) -> None:
        self._end(error)

    def _look(self) -> None:
        if self.link.broken is not None:
            self._end(self.link.broken)

    def _end(self, error: BrokerError) -> None:
        if self._look in self.link.on_change:
            self.link.on_change.remove(self._look)
        still_open, self._open = self._open, {}
        for batch, message_id in still_open.values():
            batch.tell(message_id, Outcome(Verdict.UNKNOWN, error))


def _postponed(reason: str) -> Outcome:
    return Outcome(Verdict.POSTPONED, BrokerError(reason, fix="Start a consumer, or bind a queue; it is tried again."))
