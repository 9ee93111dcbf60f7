"""A broker that outlives the processes which use it: its memory is a file, and its calls are points.

It keeps what it confirmed, gives out again what was not acknowledged, per group and in order, and can be told to
refuse. ``WireLog`` is the same file as the checks read it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from txpatterns.errors import BrokerUnavailable, PublishRejected
from txpatterns.messages import Message
from txpatterns.testing.explorer.points import Mode, Points
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Verdict

Refusal = Callable[[Message, int], Verdict | None]
"""Given a message and how often it was sent, says that the broker refuses it, and how; None: it takes it."""


_LOOK_AGAIN = 0.05
"""Seconds of real time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One copy of a message that the broker has stored."""

    number: int
    message: Message


class WireLog:
    """What happened at the broker, in order. Several processes may write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Begin with an empty broker."""
        self.path.write_bytes(b"")

    def write(self, kind: str, **values: object) -> None:
        """Add one record, in one piece."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, json.dumps({"kind": kind, **values}).encode() + b"\n")
        finally:
            os.close(file)

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        """Give all records of these kinds, in order."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [record for record in map(json.loads, lines) if record["kind"] in kinds]

    @property
    def published(self) -> list[Sent]:
        """Every copy that was stored, in the order of storing."""
        return [Sent(number, _message(record)) for number, record in enumerate(self.records("stored"))]

    def acknowledged(self, group: str) -> set[int]:
        """The numbers of the copies that a group has acknowledged."""
        return {record["number"] for record in self.records("acknowledged") if record["group"] == group}


class WireBroker:
    """A broker on a ``WireLog``, for one process."""

    def __init__(
        self,
        log: WireLog,
        points: Points,
        *,
        capabilities: Capabilities | None = None,
        refuses: Refusal | None = None,
    ) -> None:
        self.log = log
        self.points = points
        self.capabilities = capabilities or Capabilities()
        self.refuses: Refusal = refuses or (lambda message, sent: None)
        self._news = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._cut_off = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._news.set()

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Store one message after the other; a refused one is followed by none of its key, as a prefix demands."""
        outcomes: dict[str, Outcome] = {}
        stopped: set[str | None] = set()
        for message in messages:
            if self.capabilities.ordered_prefix and message.key in stopped:
                continue
            outcome = await self._store(message)
            if outcome.verdict is not Verdict.CONFIRMED:
                stopped.add(message.key)
            outcomes[message.id] = outcome
            if not self.capabilities.ordered_prefix:
                yield self._confirm({message.id: outcome})
        if self.capabilities.ordered_prefix:
            yield self._confirm(outcomes)

    async def _store(self, message: Message) -> Outcome:
        fault = self.points.arrive("broker: publish")
        await asyncio.sleep(0)
        if fault is Mode.ERROR_BEFORE:
            raise BrokerUnavailable
        sent = 1 + sum(record["id"] == message.id for record in self.log.records("sent"))
        self.log.write("sent", id=message.id, process=os.getpid())
        refusal = self.refuses(message, sent)
        if refusal is not None:
            return Outcome(refusal, PublishRejected(f"{refusal} by the broker model"))
        self.log.write("stored", **record_of(message))
        self._news.set()
        self.points.leave(fault)
        if fault is Mode.REPLY_LOST:
            raise ConnectionResetError("the confirmation was lost (injected)")
        return CONFIRMED

    def _confirm(self, outcomes: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
        fault = self.points.arrive("broker: confirm")
        if fault is Mode.ERROR_BEFORE:
            raise ConnectionResetError("the confirmation was lost (injected)")
        for message_id, outcome in outcomes.items():
            if outcome.verdict is Verdict.CONFIRMED:
                self.log.write("confirmed", id=message_id, process=os.getpid())
        self.points.leave(fault)
        if fault is Mode.REPLY_LOST:
            raise ConnectionResetError("the confirmation was lost (injected)")
        return outcomes

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Nothing is to be done: a group gets what was published before it, too."""

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[WireDelivery]]]:
        """Give out what the group has not acknowledged, from the beginning, and then what comes."""
        yield self._deliveries(set(topics), group)

    async def _deliveries(self, topics: set[str], group: str) -> AsyncIterator[Sequence[WireDelivery]]:
        given: set[int] = set()
        before = Counter(r["number"] for r in self.log.records("given") if r["group"] == group)
        while True:
            self._news.clear()
            done = self.log.acknowledged(group)
            for sent in self.log.published:
                if sent.number in given or sent.number in done or sent.message.topic not in topics:
                    continue
                if self.points.arrive("broker: deliver") is Mode.ERROR_BEFORE:
                    raise BrokerUnavailable
                given.add(sent.number)
                self.log.write("given", group=group, number=sent.number)
                yield [WireDelivery(self, group, sent, redelivered=before[sent.number] > 0)]
            await self._news.wait()
            if self._cut_off:
                self._cut_off = False
                raise BrokerUnavailable

    def cut_off(self) -> None:
        """End the subscription: what is not acknowledged is given to the next one."""
        self._cut_off = True
        self._news.set()

    def acknowledge(self, group: str, number: int) -> None:
        """Forget a copy for a group."""
        self.log.write("acknowledged", group=group, number=number)
        self._acknowledged.set()

    async def rested(self, group: str, topics: Collection[str]) -> None:
        """Wait until a group has acknowledged every copy on these topics."""
        while True:
            self._acknowledged.clear()
            wanted = {sent.number for sent in self.log.published if sent.message.topic in topics}
            if wanted <= self.log.acknowledged(group):
                return
            with suppress(TimeoutError):  # another process may acknowledge too
                async with asyncio.timeout(_LOOK_AGAIN):  # `wait_for` may lose a cancellation
                    await self._acknowledged.wait()


class WireDelivery:
    """A copy that was given to a group."""

    def __init__(self, broker: WireBroker, group: str, sent: Sent, *, redelivered: bool) -> None:
        self.broker = broker
        self.group = group
        self.sent = sent
        self.redelivered = redelivered

    @property
    def message(self) -> Message:
        """The message as it was published."""
        return self.sent.message

    async def ack(self) -> None:
        """Let the broker forget this copy, for this group."""
        fault = self.broker.points.arrive("broker: acknowledge")
        await asyncio.sleep(0)
        if fault is Mode.ERROR_BEFORE:
            self.broker.cut_off()
            raise BrokerUnavailable
        self.broker.acknowledge(self.group, self.sent.number)
        self.broker.points.leave(fault)
        if fault is Mode.REPLY_LOST:
            self.broker.cut_off()
            raise ConnectionResetError("the answer was lost (injected)")


def record_of(message: Message) -> dict[str, object]:
    """Give a message as the log keeps it."""
    return {
        "id": message.id,
        "topic": message.topic,
        "type": message.type,
        "message_key": message.key,
        "payload": base64.b64encode(message.payload).decode(),
        "headers": dict(message.headers),
        "content_type": message.content_type,
        "occurred_at": message.occurred_at.isoformat(),
    }


def _message(record: Mapping[str, Any]) -> Message:
    return Message(
        id=record["id"],
        topic=record["topic"],
        type=record["type"],
        payload=base64.b64decode(record["payload"]),
        key=record["message_key"],
        headers=record["headers"],
        content_type=record["content_type"],
        occurred_at=datetime.fromisoformat(record["occurred_at"]),
    )
