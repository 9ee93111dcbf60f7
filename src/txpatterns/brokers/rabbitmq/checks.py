"""A look at a server, before it is used and while it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from txpatterns.brokers.rabbitmq.failures import NOT_FOUND, Refused
from txpatterns.brokers.rabbitmq.link import Channel, Link, QueueState
from txpatterns.brokers.rabbitmq.topology import QUEUE_ARGUMENTS, Topology
from txpatterns.findings import Finding, Severity
from txpatterns.transport import Depth

T = TypeVar("T")

_OLDEST = (3, 10)
_MADE = "It is made when it is first used; with declare=False make it."


async def findings_of(link: Link, topology: Topology, topics: Sequence[str], group: str | None) -> list[Finding]:
    """Look at the server, at exchanges, and at a group's queues."""
    found = _of_version(link, topology)
    missing = Severity.INFO if topology.settings.declare else Severity.ERROR
    for topic in topics:
        name = topology.exchange(topic)
        _, refused = await _tried(link, partial(Channel.declare_exchange, name=name, type_="topic", passive=True))
        if refused is not None:
            found.append(_refusal(f"topic {topic}", refused, missing))
        if group is not None:
            found += await _of_group(link, topology, group, topic, missing)
    return found


async def depths_of(link: Link, topology: Topology, topics: Sequence[str], group: str) -> list[Depth]:
    """Ask each queue that is there."""
    found = []
    for topic in topics:
        for queue in topology.queues(group, topic):
            state, _ = await _looked_at(link, queue)
            if state is not None:
                found.append(Depth(topic, group, queue, ready=state.ready, readers=state.readers))
    return found


def _of_version(link: Link, topology: Topology) -> list[Finding]:
    version = link.version
    told = ".".join(map(str, version))
    if version < _OLDEST:
        return [Finding(Severity.ERROR, f"RabbitMQ {told}", "It is too old.", "Use 3.10 or later.")]
    if version < (4,) and topology.settings.partitions > 1:
        words = "The first member of a group has all queues until it leaves, and its makers support it no more."
        return [Finding(Severity.INFO, f"RabbitMQ {told}", words, "From RabbitMQ 4 on members share the queues.")]
    return []


async def _of_group(link: Link, topology: Topology, group: str, topic: str, missing: Severity) -> list[Finding]:
    size, wanted = await topology.other_size(link, group, topic), topology.settings.partitions
    if size is not None:
        words = f"It has {size} queues for the topic {topic}, and partitions is {wanted}."
        fix = f"Set partitions={size}; or stop its members, let the queues run empty, delete them and start again."
        return [Finding(Severity.ERROR, f"group {group}", words, fix)]
    found = []
    for queue in topology.queues(group, topic):
        _, refused = await _looked_at(link, queue)
        if refused is None:  # it is there: to declare it once more makes nothing, and tells whether it differs
            _, refused = await _tried(link, partial(Channel.declare_queue, name=queue, arguments=QUEUE_ARGUMENTS))
        if refused is not None:
            found.append(_refusal(f"queue {queue}", refused, missing))
    return found


async def _looked_at(link: Link, queue: str) -> tuple[QueueState | None, Refused | None]:
    return await _tried(link, lambda channel: channel.look_at_queue(queue))


async def _tried(link: Link, ask: Callable[[Channel], Awaitable[T]]) -> tuple[T | None, Refused | None]:
    try:
        async with link.channel() as channel:
            return await ask(channel), None
    except Refused as refused:
        return None, refused


def _refusal(subject: str, refused: Refused, missing: Severity) -> Finding:
    if refused.status == NOT_FOUND:
        return Finding(missing, subject, "It is not there.", _MADE)
    return Finding(Severity.ERROR, subject, f"{refused.status} {refused.text}.", refused.remedy)
