"""Which exchanges and queues a topic and its groups have, and how they come to be.

A topic is a topic exchange. A group has queues of its own for each topic; a key belongs to one of sixteen slots, and
each queue has its share of them. Each queue is given to one member at a time, so a key is with one member at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import crc32

from txpatterns.brokers.rabbitmq.failures import NOT_FOUND, Refused
from txpatterns.brokers.rabbitmq.link import Link
from txpatterns.brokers.rabbitmq.settings import SIZES, RabbitMQSettings, refuse_name
from txpatterns.brokers.rabbitmq.wire import SLOT, SLOTS
from txpatterns.errors import ConfigurationError

QUEUE_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    # Left out, RabbitMQ 4 drops what 20 crashes gave back; -1, RabbitMQ 3 drops everything that is given back.
    "x-delivery-limit": 1_000_000,
}

_WRITTEN_AFTER = 2.0
"""Seconds of the server's time. It notes a new quorum queue on disk up to a second after it has said that the queue is
made. Killed before that, it starts the queue anew: empty, whatever it had confirmed, and without a leader for ever."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of what a topic and a group have, and what makes them."""

    settings: RabbitMQSettings
    _making: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict, repr=False)

    def begin_anew(self) -> None:
        """Forget what is being made: the next use may be in another event loop or process."""
        self._making.clear()

    def exchange(self, topic: str) -> str:
        """Where messages of a topic are published."""
        return self.settings.exchange or topic

    def routing_key(self, topic: str, type_: str) -> str:
        """What consumers of others may bind to."""
        return f"{topic}.{type_}" if self.settings.exchange else type_

    def _all_of(self, topic: str) -> str:
        return f"{topic}.#" if self.settings.exchange else "#"

    def queues(self, group: str, topic: str, size: int | None = None) -> list[str]:
        """The queues of a group for a topic."""
        size = size or self.settings.partitions
        return [f"{group}.{topic}.{size}.{number}" for number in range(size)]

    def refuse_names(self, group: str, topic: str) -> None:
        """Refuse a group or topic whose queues could not have their names, or that would be given those of others.

        Raises:
            ConfigurationError: see ``refuse_name``.
        """
        refuse_name(self.exchange(topic), "an exchange")
        refuse_name(f"{self.queues(group, topic, SIZES[-1])[-1]}.other", "a queue")
        if self.settings.exchange and {"*", "#"} & set(topic.split(".")):
            raise ConfigurationError(f"The topic {topic!r} has a wildcard of RabbitMQ as a word.", fix="Leave it out.")

    async def make_topic(self, link: Link, topic: str) -> None:
        """Make a topic's exchange, or look whether it is there.

        Raises:
            Refused: it is missing, has another type, or the user has no right to make it.
        """
        async with link.channel() as channel:
            await channel.declare_exchange(self.exchange(topic), "topic", passive=not self.settings.declare)

    async def make_group(self, link: Link, group: str, topic: str) -> None:
        """Make the queues of a group, so that it misses nothing from now on.

        Raises:
            Refused: something is missing, has other arguments, or the user has no right to make it.
            ConfigurationError: the group has another number of queues.
        """
        # One at a time: RabbitMQ 4 tells who binds second that it is done before what the first has bound is in use.
        async with self._making.setdefault((group, topic), asyncio.Lock()):
            await self._make_group(link, group, topic)

    async def _make_group(self, link: Link, group: str, topic: str) -> None:
        found = await self.other_size(link, group, topic)
        if found is not None:
            raise ConfigurationError(
                f"The group {group} has {found} queues for {topic}, and partitions is {self.settings.partitions}.",
                fix=f"Set partitions={found}; or stop the group, let its queues run empty, and delete them.",
            )
        names = self.queues(group, topic)
        if not self.settings.declare:
            async with link.channel() as channel:
                for name in names:
                    await channel.look_at_queue(name)
            return
        await self.make_topic(link, topic)
        if not await self._is_made(link, group, topic):
            async with link.channel() as channel:
                for name in names:
                    await channel.declare_queue(name, QUEUE_ARGUMENTS)
            await asyncio.sleep(_WRITTEN_AFTER)  # before it is bound: nothing can be in it
        await self._bind(link, group, topic)

    async def _is_made(self, link: Link, group: str, topic: str) -> bool:
        """Say whether the queues are there, and their maker has waited until the server would still know them."""
        names = self.queues(group, topic)
        for name in names:
            if not await exists(link, name):
                return False
        return len(names) == 1 or await exists(link, f"{group}.{topic}", exchange=True)

    async def _bind(self, link: Link, group: str, topic: str) -> None:
        names = self.queues(group, topic)
        async with link.channel() as channel:
            for name in names:  # once more: one that is there with other arguments is refused
                await channel.declare_queue(name, QUEUE_ARGUMENTS)
            source, everything = self.exchange(topic), self._all_of(topic)
            if len(names) == 1:
                await channel.bind_queue(names[0], source, everything, {})
                return
            spread, other = f"{group}.{topic}", f"{group}.{topic}.other"
            await channel.declare_exchange(other, "fanout")
            await channel.bind_queue(names[0], other, "", {})
            # What others publish has no slot: it goes to the first queue.
            await channel.declare_exchange(spread, "headers", arguments={"alternate-exchange": other})
            for slot in range(SLOTS):
                name = names[slot % len(names)]
                await channel.bind_queue(name, spread, "", {"x-match": "all", SLOT: str(slot)})
            await channel.bind_exchange(spread, source, everything)  # the last: nothing is routed halfway

    async def other_size(self, link: Link, group: str, topic: str) -> int | None:
        """Look whether a group has another number of queues for a topic, and give it."""
        for size in SIZES:
            if size != self.settings.partitions and await exists(link, self.queues(group, topic, size)[0]):
                return size
        return None


async def exists(link: Link, name: str, *, exchange: bool = False) -> bool:
    """Say whether a queue, or a headers exchange, is there."""
    try:
        async with link.channel() as channel:
            if exchange:
                await channel.declare_exchange(name, "headers", passive=True)
            else:
                await channel.look_at_queue(name)
    except Refused as refused:
        if refused.status == NOT_FOUND:
            return False
        raise
    return True


def ranks(member: str, queues: list[str]) -> Iterator[tuple[str, int]]:
    """Give each queue with this member's claim to it: the highest has it, so that members share them evenly."""
    for queue in queues:
        yield queue, crc32(f"{member}/{queue}".encode()) % 250 + 1
