"""What a suite is told of its broker, and the tools that its tests share."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import ClassVar

import pytest

from txpatterns.messages import Message
from txpatterns.testing.scenarios import Publishing, Reader, firsts_of_keys, message
from txpatterns.transport import Broker, Verdict


class Suite:
    """What a suite is told of the broker, and the tools of its tests."""

    patience: ClassVar[timedelta] = timedelta(seconds=60)
    """The longest that one test may take."""
    ran: ClassVar[int] = 0
    left_out: ClassVar[int] = 0

    def new_broker(self) -> Broker:
        """Make a broker; all brokers of one test reach the same server. Nothing is connected yet."""
        raise NotImplementedError

    def new_topic(self) -> str:
        """Name a topic that no other test uses, and that can be used now."""
        return f"suite-{secrets.token_hex(6)}"

    def closed_topic(self) -> str:
        """Name a topic that takes nothing now, until ``open_topic``: missing, without a queue, not allowed."""
        pytest.skip("the suite has no `closed_topic`")

    def open_topic(self, topic: str) -> None:
        """Let a closed topic take messages."""
        raise NotImplementedError

    def restart(self) -> None:
        """Kill the server, with SIGKILL if it is a process, and start it again; what it has stored is still there."""
        pytest.skip("the suite has no `restart`")

    @classmethod
    def teardown_class(cls) -> None:
        """A run in which everything was left out proves nothing."""
        assert cls.ran != cls.left_out or not cls.ran, f"{cls.__name__}: all {cls.ran} tests were left out"

    @asynccontextmanager
    async def reading(self, broker: Broker, topic: str, group: str) -> AsyncIterator[Reader]:
        """Join a group for a while."""
        async with broker.subscribe([topic], group=group) as batches:
            yield Reader(batches)

    async def publish_stubbornly(self, broker: Broker, messages: Sequence[Message]) -> list[str]:
        """Publish as the relay does, until each is confirmed, or rejected all by itself; gives the rejected ids."""
        rejected: list[str] = []
        waiting, alone = list(messages), False
        while waiting:
            sent = waiting[:1] if alone else waiting
            if not broker.capabilities.ordered_prefix:
                sent = firsts_of_keys(sent)
            verdicts = await Publishing(broker, sent).verdicts()
            failed: set[str | None] = set()
            done: set[str] = set()
            for each, verdict in zip(sent, verdicts, strict=True):
                if each.key not in failed and verdict is Verdict.CONFIRMED:
                    done.add(each.id)
                elif verdict is Verdict.REJECTED and len(sent) == 1:
                    rejected.append(each.id)
                    done.add(each.id)
                else:
                    failed.add(each.key)
            alone = bool(failed) and not alone
            waiting = [each for each in waiting if each.id not in done]
        return rejected

    def together(self, broker: Broker, topic: str, count: int) -> list[Message]:
        """Make messages that one member can hold at the same time: of one key, where the broker pipelines keys."""
        pipelined = broker.capabilities.pipelines_keys
        return [message(topic, "key" if pipelined else f"key-{number}") for number in range(count)]

    def needs(self, claimed: object, what: str) -> None:
        """Leave a test out for a broker that does not claim what it tests."""
        if not claimed:
            pytest.skip(f"the broker's capabilities leave out: {what}")
