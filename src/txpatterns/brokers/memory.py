"""The broker inside this process: no server, no files, and still nothing lost.

It keeps no message of its own. A publication is confirmed when every declared group has acknowledged it, so until
then the message is in its sender's outbox; when the process dies, it is published again from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from txpatterns.brokers.memory_groups import Group, Item, Member, Publication
from txpatterns.errors import ConfigurationError, PublishRejected
from txpatterns.messages import Message
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.text import one_line
from txpatterns.transport import Capabilities, Outcome, Verdict

logger = logging.getLogger("txpatterns")

_TOLD = 1000
"""Topics that are told of: a program may make up names without end."""


class MemoryBroker:
    """Carries messages between the Apps of one process, which share one object of this class.

    A group exists when it is declared (or first subscribed to), not while it is connected: what is published to
    its topics waits for it. A topic of no group confirms at once and keeps nothing. Each group gets every message
    of its topics; per key the order is kept and only one member has messages at a time. Everything belongs to one
    event loop, that of the first entry, until the last one has left.

    Args:
        max_in_flight: how many unacknowledged messages one member may have.
        max_payload: the largest message in bytes; None, the default, has no limit.
    """

    def __init__(self, *, max_in_flight: int = 1000, max_payload: int | None = None) -> None:
        self.capabilities = Capabilities(
            ordered_prefix=True,
            confirms_handling=True,
            max_batch=1000,
            max_payload=max_payload,
            retains=False,
        )
        self._max_in_flight = max_in_flight
        self._groups: dict[str, Group] = {}
        self._unread: set[str] = set()
        self._begin_anew()
        forget_after_fork(self)

    def _begin_anew(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entered = 0

    @classmethod
    def from_url(cls, url: str, *, max_in_flight: int = 1000, max_payload: int | None = None) -> MemoryBroker:
        """Make a broker of its own for ``memory://``; Apps that talk to each other share one object instead.

        Raises:
            ConfigurationError: the URL says more than ``memory://``.
        """
        if url != "memory://":
            raise ConfigurationError(
                "The in-memory broker has no address.",
                fix='Write "memory://"; several Apps share one by broker=MemoryBroker().',
            )
        return cls(max_in_flight=max_in_flight, max_payload=max_payload)

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Make a group exist: from now on, messages of these topics wait until it has acknowledged them."""
        self._groups.setdefault(group, Group(group)).topics.update(topics)

    @property
    def has_groups(self) -> bool:
        """Whether anybody is to read at all."""
        return bool(self._groups)

    def missing_groups(self) -> list[str]:
        """Give the declared groups that nobody reads now.

        Their messages would never be confirmed, so a process with any of them must not relay.
        """
        return sorted(name for name, group in self._groups.items() if not group.is_read)

    async def __aenter__(self) -> Self:
        self._bind()
        self._entered += 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._entered = max(self._entered - 1, 0)
        if not self._entered:
            self._loop = None

    def after_fork(self) -> None:
        """In a forked child: groups stay declared, but their members and messages are the parent's."""
        groups, self._groups = self._groups, {}
        for name, group in groups.items():
            self.declare(name, sorted(group.topics))
        self._begin_anew()

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Hand messages to every group of their topics, and tell each when all groups have acknowledged it.

        There is no deadline. Whoever stops waiting takes the messages back as far as no handler has them yet:
        they are unknown, to be published again.
        """
        return self._publish(messages)

    async def _publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        self._bind()
        publication = Publication()
        readers: dict[str, list[Group]] = {}
        limit, stopped = self.capabilities.max_payload, set[str]()
        try:
            for message in messages:
                if message.key in stopped:
                    publication.told[message.id] = Outcome(Verdict.UNKNOWN)
                elif limit is not None and message.size > limit:
                    publication.told[message.id] = Outcome(Verdict.REJECTED, _too_large(message, limit))
                    stopped.update(() if message.key is None else (message.key,))
                else:
                    if message.topic not in readers:
                        readers[message.topic] = self._readers_of(message.topic)
                    publication.add(message, readers[message.topic])
            for group in {group.name: group for found in readers.values() for group in found}.values():
                group.wake()
            while True:
                if publication.told:
                    told, publication.told = publication.told, {}
                    yield told
                elif publication.open:
                    publication.changed.clear()
                    await publication.changed.wait()
                else:
                    return
        finally:
            publication.withdraw()

    def _readers_of(self, topic: str) -> list[Group]:
        found = [group for group in self._groups.values() if topic in group.topics]
        if not found and topic not in self._unread and len(self._unread) < _TOLD:
            self._unread.add(topic)
            logger.warning("nobody in this process reads %s: on memory:// its messages are gone", one_line(topic))
        return found

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[MemoryDelivery]]]:
        """Join a group, which is declared by that if it was not. Leaving gives back what is not acknowledged."""
        return self._subscribe(topics, group)

    @asynccontextmanager
    async def _subscribe(
        self, topics: Sequence[str], group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[MemoryDelivery]]]:
        self._bind()
        self.declare(group, topics)
        joined = self._groups[group]
        member = Member(frozenset(topics), self._max_in_flight)
        joined.join(member)
        try:
            yield self._deliveries(joined, member)
        finally:
            joined.leave(member)

    async def _deliveries(self, group: Group, member: Member) -> AsyncIterator[Sequence[MemoryDelivery]]:
        while True:
            items = group.take(member)
            if items:
                yield [MemoryDelivery(group, member, item) for item in items]
            elif member.left:
                return
            else:
                member.wanted.clear()
                await member.wanted.wait()

    def _bind(self) -> None:
        running = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = running
        elif self._loop is not running:
            raise ConfigurationError(
                "This MemoryBroker is in use in another event loop.",
                fix="Run all Apps that share it in one loop, or give each loop a MemoryBroker of its own.",
            )


class MemoryDelivery:
    """One message for one member of a group."""

    __slots__ = ("_group", "_item", "_member", "_redelivered")

    def __init__(self, group: Group, member: Member, item: Item) -> None:
        self._group = group
        self._member = member
        self._item = item
        self._redelivered = item.redelivered

    @property
    def message(self) -> Message:
        """The very object that was published."""
        return self._item.message

    @property
    def redelivered(self) -> bool:
        """Whether a member of this group had it before."""
        return self._redelivered

    async def ack(self) -> None:
        """Count this group's share of the publication as done. Without effect if the delivery is no longer ours."""
        if self._group.give_up(self._member, self._item):
            self._group.done(self._item)


def _too_large(message: Message, limit: int) -> PublishRejected:
    return PublishRejected(f"The message has {message.size} bytes, {limit} are allowed.")
